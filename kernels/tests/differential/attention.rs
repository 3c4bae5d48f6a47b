//! Attention: lengths around panels of 16 and chunks of 64 positions, queries in every number, and
//! caches of any bits.

use kinglet_kernels::cache::{CHUNK, CacheShape, Head};
use kinglet_kernels::{Bias, Isa, Mask, Part, Scratch};

use crate::support::*;

/// A query's attention in f64, from the keys and values as they were before they were quantized.
/// `bias` is added to the score of a position.
fn plain(
    q: &[f32],
    keys: &[Vec<f32>],
    values: &[Vec<f32>],
    scale: f32,
    bias: impl Fn(usize) -> f64,
) -> Vec<f64> {
    let product =
        |k: &[f32]| k.iter().zip(q).map(|(&k, &q)| f64::from(k) * f64::from(q)).sum::<f64>();
    let scores: Vec<f64> =
        keys.iter().enumerate().map(|(j, k)| product(k) * f64::from(scale) + bias(j)).collect();
    let top = scores.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
    let weight = |s: &f64| (s - top).exp() / sum;
    (0..q.len())
        .map(|d| scores.iter().zip(values).map(|(s, v)| weight(s) * f64::from(v[d])).sum())
        .collect()
}

#[test]
#[cfg_attr(miri, ignore = "safe code around the products")]
fn equals_the_reference_and_is_attention() {
    let mut random = Random(1);
    let shapes = [(1, 1), (16, 8), (70, 20), (64, 64), (200, 48), (129, 33), (150, 97), (300, 256)];
    for ((context, head_dim), format) in
        shapes.into_iter().flat_map(|shape| VALUES.map(|values| (shape, values)))
    {
        let shape = CacheShape::new(context, head_dim, format);
        let most = if format == ValueFormat::Int8 { 0.12 } else { 0.4 };
        for len in [1, 2, 15, 16, 17, 63, 64, 65, 128, 129, 200, 300]
            .into_iter()
            .filter(|&n| n <= shape.positions)
        {
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
            Isa::SCALAR.attend(&cache.head(), Mask::causal(len), scale, &mut want, 1, head_dim);
            for isa in vector_sets() {
                let mut got = q.clone();
                isa.attend(&cache.head(), Mask::causal(len), scale, &mut got, 1, head_dim);
                assert_eq!(bits(&got), bits(&want), "{isa:?} {context} {head_dim} {len}");
            }
            for (got, exact) in want.iter().zip(plain(&q, &keys, &values, scale, |_| 0.0)) {
                assert!(
                    (exact - f64::from(*got)).abs() < most,
                    "{context} {head_dim} {len}: {exact} {got}"
                );
            }
        }
    }
}

/// A table of a bias up to `reach` positions away.
fn table(heads: usize, reach: usize, random: &mut Random) -> Vec<f32> {
    random.floats(heads * (2 * reach + 1))
}

/// Queries at once are the same queries one by one, whatever lies between and after them, what
/// they see, and with a bias or without.
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
    // Near enough to be clamped, and too far for that.
    let reach = [0, 3, 40, 400][(rows + heads) % 4];
    let table = table(heads, reach, random);
    let first = [len - 1, 0, 1000][rows % 3];
    let other = [(true, true), (false, false), (false, true)][(rows + heads + len) % 3];
    // The last one hides nothing.
    let window = [1, 5, 64, 70, usize::MAX][(2 * rows + heads + len) % 5];
    for (earlier, biased, window) in
        [(true, false, usize::MAX), (true, false, window), (other.0, other.1, window)]
    {
        let mask = |len, row, table| {
            let mask = if earlier { Mask::causal(len + row) } else { Mask::all(len) };
            let mask = mask.with_window(window);
            if biased { mask.with_bias(Bias { table, first: first + row }) } else { mask }
        };
        let mut want = q.clone();
        for row in 0..rows {
            let queries = want[row * stride..][..heads * head_dim].chunks_exact_mut(head_dim);
            for (query, table) in queries.zip(table.chunks_exact(2 * reach + 1)) {
                Isa::SCALAR.attend(&cache.head(), mask(len, row, table), 0.3, query, 1, head_dim);
            }
        }
        for isa in all_sets() {
            let mut got = q.clone();
            isa.attend(&cache.head(), mask(len, 0, &table), 0.3, &mut got, heads, stride);
            let what = format!(
                "{heads} heads, {rows} rows from {len}, earlier {earlier}, biased {biased}, window \
                 {window}"
            );
            assert_eq!(bits(&got), bits(&want), "{isa:?} {:?} {what}", cache.shape);
            got.copy_from_slice(&q);
            in_parts(isa, (&cache.head(), mask(len, 0, &table), 0.3), (&mut got, heads, stride));
            assert_eq!(bits(&got), bits(&want), "parts, {isa:?} {:?} {what}", cache.shape);
        }
    }
}

/// Every query, a chunk or two at a time, in memory that holds garbage before.
fn in_parts(isa: Isa, over: (&Head<'_>, Mask<'_>, f32), rows: (&mut [f32], usize, usize)) {
    let (q, heads, stride) = rows;
    let chunks = over.0.shape().positions.div_ceil(CHUNK);
    let mut scratch = Scratch::EMPTY;
    isa.attend_in(
        (over.0, Mask::all(1), 0.7),
        (&mut vec![3.0; q.len()], heads, stride),
        None,
        &mut scratch,
    );
    for query in 0..q.len().div_ceil(stride) * heads {
        let step = 1 + query % 2;
        for start in (0..chunks).step_by(step) {
            let part = Part { query, chunks: start..start + step };
            isa.attend_in(over, (q, heads, stride), Some(part), &mut scratch);
        }
    }
}

/// What every position and a bias of every reach make of a score.
#[test]
#[cfg_attr(miri, ignore = "safe code around the products")]
fn bias_and_mask_are_attention() {
    let mut random = Random(6);
    let rows = 5;
    for (len, head_dim, heads) in
        [(1, 8, 2), (5, 64, 1), (37, 20, 3), (64, 16, 1), (77, 33, 4), (197, 64, 2)]
    {
        let mut cache =
            Cache::garbage(CacheShape::new(len, head_dim, ValueFormat::Int8), &mut random);
        let (mut keys, mut values) = (vec![], vec![]);
        for position in 0..len {
            let (k, v) = (random.floats(head_dim), random.floats(head_dim));
            cache.store(position, &k, &v);
            keys.push(k);
            values.push(v);
        }
        let scale = 1.0 / (head_dim as f32).sqrt();
        let q = random.floats(rows * heads * head_dim);
        for (reach, first, window) in
            [(0, 0, 1), (2, 0, 3), (30, 9, 64), (128, 60, 65), (500, 190, 130), (3, 1000, 1000)]
        {
            let table = table(heads, reach, &mut random);
            for (earlier, seen) in [(false, len), (true, len.saturating_sub(rows - 1).max(1))] {
                if earlier && len < rows {
                    continue;
                }
                let mask = if earlier { Mask::causal(seen) } else { Mask::all(seen) };
                let mut got = q.clone();
                let mask = mask.with_bias(Bias { table: &table, first }).with_window(window);
                Isa::SCALAR.attend(&cache.head(), mask, scale, &mut got, heads, heads * head_dim);
                for (i, (q, got)) in q.chunks(head_dim).zip(got.chunks(head_dim)).enumerate() {
                    let (row, head) = (i / heads, i % heads);
                    let seen = if earlier { seen + row } else { seen };
                    let from = seen.saturating_sub(window);
                    let distance = |j: usize| j as isize - (first + row) as isize;
                    let place = |j| {
                        (distance(j).clamp(-(reach as isize), reach as isize) + reach as isize)
                            as usize
                    };
                    let bias = |j: usize| {
                        let j = from + j;
                        f64::from(table[head * (2 * reach + 1) + place(j)]) * std::f64::consts::LN_2
                    };
                    for (exact, got) in
                        plain(q, &keys[from..seen], &values[from..seen], scale, bias)
                            .iter()
                            .zip(got)
                    {
                        let error = (exact - f64::from(*got)).abs();
                        assert!(
                            error < 0.12,
                            "{len} x {head_dim}, query {i}, reach {reach} from {first}: {error}"
                        );
                    }
                }
            }
        }
    }
}

/// A bias that is infinite hides a position, or is the only one that counts; any bits are the same
/// nonsense.
#[test]
#[cfg_attr(miri, ignore = "safe code around the products")]
fn hostile_biases_are_the_same() {
    let mut random = Random(7);
    let cache = Cache::random(150, 24, ValueFormat::Int8, &mut random);
    let wild = [0.0, -1.0, 1e-45, 1e30, f32::MIN, f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
    for round in 0..300 {
        let q = random.floats(6 * 24);
        let reach = round % 90;
        let some = &wild[..2 + round % 7];
        let table: Vec<f32> = (0..2 * (2 * reach + 1)).map(|_| random.pick(some)).collect();
        let bias = Bias { table: &table, first: round % 50 };
        let run = |isa: Isa| {
            let mut q = q.clone();
            isa.attend(
                &cache.head(),
                Mask::all(150 - round % 20).with_bias(bias),
                0.3,
                &mut q,
                2,
                48,
            );
            bits(&q)
        };
        let want = run(Isa::SCALAR);
        for isa in vector_sets() {
            assert_eq!(run(isa), want, "{isa:?} round {round}");
        }
    }
    // All but the first position hidden: its value.
    let mut one = [f32::NEG_INFINITY; 299];
    one[149] = 0.0;
    let (mut hidden, mut alone) = (vec![1.0; 24], vec![1.0; 24]);
    Isa::SCALAR.attend(
        &cache.head(),
        Mask::all(150).with_bias(Bias { table: &one, first: 0 }),
        0.3,
        &mut hidden,
        1,
        24,
    );
    Isa::SCALAR.attend(&cache.head(), Mask::all(1), 0.3, &mut alone, 1, 24);
    assert_eq!(bits(&hidden), bits(&alone));
}

#[test]
#[should_panic(expected = "operands do not fit")]
#[cfg_attr(target_family = "wasm", ignore = "a panic ends the program")]
#[cfg_attr(miri, ignore = "safe code")]
fn a_table_of_no_reach_is_refused() {
    let mut random = Random(8);
    let cache = Cache::random(16, 4, ValueFormat::Int8, &mut random);
    let mask = Mask::all(16).with_bias(Bias { table: &[0.0; 4], first: 0 });
    Isa::SCALAR.attend(&cache.head(), mask, 1.0, &mut [1.0; 8], 2, 8);
}

#[test]
fn queries_at_once_are_queries_one_by_one() {
    let mut random = Random(2);
    let shapes: &[(usize, usize)] =
        if MIRI { &[(20, 17)] } else { &[(80, 17), (150, 64), (200, 3)] };
    for &(context, head_dim) in shapes {
        let values = if MIRI || head_dim != 64 { ValueFormat::Int8 } else { ValueFormat::Int4 };
        let cache = Cache::random(context, head_dim, values, &mut random);
        for heads in (1..=9).filter(|heads| !MIRI || *heads == 3) {
            for rows in (1..=19).filter(|rows| !MIRI || *rows == 2) {
                for len in [1, 62, context - rows + 1].into_iter().skip(if MIRI { 2 } else { 0 }) {
                    assert_rows_are_single_queries(
                        &cache,
                        len,
                        rows,
                        heads,
                        rows % 3 * 5,
                        &mut random,
                    );
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "safe code around the products")]
fn a_long_prompt_crosses_chunks() {
    let mut random = Random(3);
    for (context, head_dim, heads, rows, gap) in
        [(200, 48, 1, 130, 1), (140, 64, 2, 70, 5), (300, 256, 3, 67, 0)]
    {
        let cache = Cache::random(context, head_dim, VALUES[rows % 2], &mut random);
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
        let mut cache =
            Cache::garbage(CacheShape::new(context, head_dim, VALUES[round % 2]), &mut random);
        for position in 0..context {
            let mut row = || {
                (0..head_dim)
                    .map(|_| random.pick(&wild) * f32::from((random.next() as i8).signum()))
                    .collect()
            };
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
        let shape = CacheShape::new(context, [256, 33, 64, 5][round % 4], VALUES[round / 16 % 2]);
        let ends: &[i8] = [&[-128][..], &[127], &[-128, 127], &[-128, -127, 0, 127]][round / 4 % 4];
        let mut cache = Cache::garbage(shape, &mut random);
        cache.codes.fill_with(|| random.pick(ends));
        cache.scales.fill_with(|| half(random.pick(&[0.0, 1e-40, 1e-3, 1.0, f32::MAX])));
        assert_same_attention(&cache, context - 3, round, &[1.0, -1.0, 3.0, 1e-3], &mut random);
    }
}

/// Three heads by four rows with queries of the numbers `wild`; in every fourth round one of them
/// is not finite.
fn assert_same_attention(
    cache: &Cache,
    len: usize,
    round: usize,
    wild: &[f32],
    random: &mut Random,
) {
    let dim = cache.shape.head_dim;
    let mut q: Vec<f32> = (0..12 * dim).map(|_| random.pick(wild)).collect();
    if round.is_multiple_of(4) {
        q[round % dim] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][round / 4 % 3];
    }
    let scale = random.pick(wild);
    let run = |isa: Isa| {
        let mut q = q.clone();
        isa.attend(&cache.head(), Mask::causal(len), scale, &mut q, 3, 3 * dim);
        bits(&q)
    };
    let want = run(Isa::SCALAR);
    for isa in vector_sets() {
        assert_eq!(run(isa), want, "{isa:?} round {round}, {:?}", cache.shape);
    }
}
