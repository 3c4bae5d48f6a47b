//! Attention: lengths around panels of 16 and chunks of 64 positions, queries in every number, and caches of any bits.

use kinglet_kernels::cache::CacheShape;
use kinglet_kernels::{Isa, Sight};

use crate::support::*;

/// A query's attention in f64, from the keys and values as they were before they were quantized.
fn plain(q: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>], scale: f32) -> Vec<f64> {
    let scores: Vec<f64> = keys
        .iter()
        .map(|k| k.iter().zip(q).map(|(&k, &q)| f64::from(k) * f64::from(q)).sum::<f64>() * f64::from(scale))
        .collect();
    let top = scores.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
    let weight = |s: &f64| (s - top).exp() / sum;
    (0..q.len()).map(|d| scores.iter().zip(values).map(|(s, v)| weight(s) * f64::from(v[d])).sum()).collect()
}

#[test]
#[cfg_attr(miri, ignore = "safe code around the products")]
fn equals_the_reference_and_is_attention() {
    let mut random = Random(1);
    for (context, head_dim) in [(1, 1), (16, 8), (70, 20), (64, 64), (200, 48), (129, 33), (150, 97), (300, 256)] {
        let shape = CacheShape::new(context, head_dim);
        for len in [1, 2, 15, 16, 17, 63, 64, 65, 128, 129, 200, 300].into_iter().filter(|&n| n <= shape.positions) {
            let mut cache = Cache::garbage(shape, &mut random);
            let (mut keys, mut values) = (vec![], vec![]);
            for position in 0..len {
                let (k, v) = (random.floats(head_dim), random.floats(head_dim));
                cache.store(position, &k, &v);
                keys.push(k);
                values.push(v);
            }
            let q = random.floats(head_dim);
            let scale = 1.0 / (head_dim as f32).sqrt();
            let mut want = q.clone();
            Isa::SCALAR.attend(&cache.head(), Sight::earlier(len), scale, &mut want, 1, head_dim);
            for isa in vector_sets() {
                let mut got = q.clone();
                isa.attend(&cache.head(), Sight::earlier(len), scale, &mut got, 1, head_dim);
                assert_eq!(bits(&got), bits(&want), "{isa:?} {context} {head_dim} {len}");
            }
            for (got, exact) in want.iter().zip(plain(&q, &keys, &values, scale)) {
                assert!((exact - f64::from(*got)).abs() < 0.12, "{context} {head_dim} {len}: {exact} {got}");
            }
        }
    }
}

/// Queries at once are the same queries one by one, whatever lies between and behind them.
fn assert_rows_are_single_queries(
    cache: &Cache,
    len: usize,
    rows: usize,
    heads: usize,
    gap: usize,
    random: &mut Random,
) {
    let head_dim = cache.shape.head_dim;
    let stride = heads * head_dim + gap;
    let q = random.floats(rows * stride - gap);
    let mut want = q.clone();
    for row in 0..rows {
        for query in want[row * stride..][..heads * head_dim].chunks_exact_mut(head_dim) {
            Isa::SCALAR.attend(&cache.head(), Sight::earlier(len + row), 0.3, query, 1, head_dim);
        }
    }
    for isa in all_sets() {
        let mut got = q.clone();
        isa.attend(&cache.head(), Sight::earlier(len), 0.3, &mut got, heads, stride);
        assert_eq!(bits(&got), bits(&want), "{isa:?} {:?} {heads} heads, {rows} rows from {len}", cache.shape);
    }
}

#[test]
fn queries_at_once_are_queries_one_by_one() {
    let mut random = Random(2);
    let shapes: &[(usize, usize)] = if MIRI { &[(20, 17)] } else { &[(80, 17), (150, 64), (200, 3)] };
    for &(context, head_dim) in shapes {
        let cache = Cache::random(context, head_dim, &mut random);
        for heads in (1..=9).filter(|heads| !MIRI || *heads == 3) {
            for rows in (1..=19).filter(|rows| !MIRI || *rows == 2) {
                for len in [1, 62, context - rows + 1].into_iter().skip(if MIRI { 2 } else { 0 }) {
                    assert_rows_are_single_queries(&cache, len, rows, heads, rows % 3 * 5, &mut random);
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "safe code around the products")]
fn a_long_prompt_crosses_chunks() {
    let mut random = Random(3);
    for (context, head_dim, heads, rows, gap) in [(200, 48, 1, 130, 1), (140, 64, 2, 70, 5), (300, 256, 3, 67, 0)] {
        let cache = Cache::random(context, head_dim, &mut random);
        for len in [1, 63, context - rows + 1] {
            assert_rows_are_single_queries(&cache, len, rows, heads, gap, &mut random);
        }
    }
}

/// Keys, values and queries of any size: every machine the same, NaN counting as one.
#[test]
#[cfg_attr(miri, ignore = "safe code around the products")]
fn hostile_numbers_are_the_same() {
    let mut random = Random(4);
    let wild = [0.0, 1e-45, 1e-38, 1e-31, 1e-20, 1.0, 1e20, 1e30, f32::MAX];
    let context = 130;
    for round in 0..400 {
        let head_dim = 1 + random.next() as usize % 40;
        let mut cache = Cache::garbage(CacheShape::new(context, head_dim), &mut random);
        for position in 0..context {
            let mut row =
                || (0..head_dim).map(|_| random.pick(&wild) * f32::from((random.next() as i8).signum())).collect();
            let (key, value): (Vec<f32>, Vec<f32>) = (row(), row());
            cache.store(position, &key, &value);
        }
        assert_same_attention(&cache, context - 3, round, &wild, &mut random);
    }
}

/// Codes of any bits, -128 among them, which only a damaged cache has.
#[test]
#[cfg_attr(miri, ignore = "safe code around the products")]
fn extreme_codes_are_the_same() {
    let mut random = Random(5);
    let context = 130;
    for round in 0..100 {
        let shape = CacheShape::new(context, [256, 33, 64, 5][round % 4]);
        let ends: &[i8] = [&[-128][..], &[127], &[-128, 127], &[-128, -127, 0, 127]][round / 4 % 4];
        let mut cache = Cache::garbage(shape, &mut random);
        cache.codes.fill_with(|| random.pick(ends));
        cache.scales.fill_with(|| random.pick(&[0.0, 1e-45, 1e-3, 1.0, f32::MAX]));
        assert_same_attention(&cache, context - 3, round, &[1.0, -1.0, 3.0, 1e-3], &mut random);
    }
}

/// Three heads by four rows with queries of the numbers `wild`; in every fourth round one of them is not finite.
fn assert_same_attention(cache: &Cache, len: usize, round: usize, wild: &[f32], random: &mut Random) {
    let dim = cache.shape.head_dim;
    let mut q: Vec<f32> = (0..12 * dim).map(|_| random.pick(wild)).collect();
    if round.is_multiple_of(4) {
        q[round % dim] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][round / 4 % 3];
    }
    let scale = random.pick(wild);
    let run = |isa: Isa| {
        let mut q = q.clone();
        isa.attend(&cache.head(), Sight::earlier(len), scale, &mut q, 3, 3 * dim);
        bits(&q)
    };
    let want = run(Isa::SCALAR);
    for isa in vector_sets() {
        assert_eq!(run(isa), want, "{isa:?} round {round}, {:?}", cache.shape);
    }
}
