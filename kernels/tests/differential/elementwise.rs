//! Norms, activations, rotation and quantization: every length up to some vectors, and every kind of number.

use kinglet_kernels::Isa;
use proptest::prelude::*;

use crate::support::*;

/// An operation on `x` with a second operand of the same length.
type Op = fn(Isa, x: &mut [f32], y: &[f32]);

const OPS: [(&str, Op); 5] = [
    ("rms_norm", |isa, x, y| rms_norm(isa, x, y, 1e-5)),
    ("rms_norm without eps", |isa, x, y| rms_norm(isa, x, y, 0.0)),
    ("add", Isa::add),
    ("silu_mul", Isa::silu_mul),
    ("rope", |isa, x, y| isa.rope(x, &y[..x.len() / 2], &y[x.len() / 2..][..x.len() / 2])),
];

fn rms_norm(isa: Isa, x: &mut [f32], weight: &[f32], eps: f32) {
    let from = x.to_vec();
    isa.rms_norm(&from, weight, eps, x);
}

const SPECIAL: [f32; 14] = [
    0.0,
    -0.0,
    1e-45,
    -1e-40,
    f32::MIN_POSITIVE,
    0.5,
    -1.5,
    90.0,
    -104.0,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

fn assert_all_sets_agree(x: &[f32], y: &[f32]) {
    let run = |isa: Isa, op: Op| {
        let mut out = x.to_vec();
        op(isa, &mut out, y);
        bits(&out)
    };
    for (name, op) in OPS {
        let want = run(Isa::SCALAR, op);
        for isa in vector_sets() {
            assert_eq!(run(isa, op), want, "{isa:?} {name} of {x:?} and {y:?}");
        }
    }
    assert_quantized_alike(x);
}

fn assert_quantized_alike(x: &[f32]) {
    let want = Rows::quantize(Isa::SCALAR, x, x.len());
    assert!(want.codes.iter().all(|&c| c != -128) && want.codes[x.len()..].iter().all(|&c| c == 0));
    for (sum, group) in want.sums.iter().zip(want.codes.chunks(32)) {
        assert_eq!(*sum, group.iter().map(|&c| i16::from(c)).sum::<i16>(), "the sums of {x:?}");
    }
    for isa in vector_sets() {
        let got = Rows::quantize(isa, x, x.len());
        assert_eq!(got.codes, want.codes, "{isa:?} codes of {x:?}");
        assert_eq!(got.sums, want.sums, "{isa:?} sums of {x:?}");
        assert_eq!(bits(&got.scales), bits(&want.scales), "{isa:?} scale of {x:?}");
    }
}

#[test]
fn every_length() {
    let mut random = Random(1);
    let long: &[usize] = if MIRI { &[] } else { &[127, 128, 129, 255, 288, 1023, 4096] };
    for n in (1..100).step_by(if MIRI { 31 } else { 1 }).chain(long.iter().copied()) {
        assert_all_sets_agree(&random.floats(n), &random.floats(n));
    }
}

#[test]
#[cfg_attr(miri, ignore = "safe code")]
fn special_numbers_at_every_place() {
    let mut random = Random(2);
    for n in [1, 2, 15, 16, 17, 33, 64, 83] {
        let (x, y) = (random.floats(n), random.floats(n));
        for place in 0..n {
            for special in SPECIAL {
                let mut with = x.clone();
                with[place] = special;
                assert_all_sets_agree(&with, &y);
                let mut with = y.clone();
                with[place] = special;
                assert_all_sets_agree(&x, &with);
            }
        }
        for special in SPECIAL {
            assert_all_sets_agree(&vec![special; n], &y);
            assert_all_sets_agree(&x, &vec![special; n]);
        }
    }
}

/// Bit patterns at even distances through all f32: the whole range of the exponential.
#[test]
#[cfg_attr(miri, ignore = "safe code")]
fn silu_of_numbers_of_every_size() {
    let x: Vec<f32> = (0..=u32::MAX).step_by(4099).map(f32::from_bits).collect();
    let silu = |isa: Isa| {
        let mut out = x.clone();
        isa.silu_mul(&mut out, &vec![1.0; x.len()]);
        bits(&out)
    };
    let want = silu(Isa::SCALAR);
    for isa in vector_sets() {
        for ((x, got), want) in x.iter().zip(silu(isa)).zip(&want) {
            assert_eq!(got, *want, "{isa:?} {x:e}");
        }
    }
}

/// With a peak of 127 the factor is 1 and halves are ties.
#[test]
#[cfg_attr(miri, ignore = "safe code")]
fn ties_round_to_even() {
    let mut x: Vec<f32> = (-127..127).map(|c| c as f32 + 0.5).collect();
    x.push(127.0);
    assert_quantized_alike(&x);
    let rows = Rows::quantize(Isa::SCALAR, &x, x.len());
    for (x, c) in x.iter().zip(rows.codes) {
        assert_eq!(f32::from(c), x.round_ties_even());
    }
}

/// Each row goes to its own memory and nothing else changes.
#[test]
fn rows_are_quantized_in_place() {
    let (rows, cols) = (5, 41);
    let x = Random(3).floats(rows * cols);
    let want = Rows::quantize(Isa::SCALAR, &x, cols);
    for isa in Isa::available() {
        for row in 0..rows {
            let mut got = Rows::garbage(rows, cols);
            let garbage = got.clone();
            let mut to = kinglet_kernels::ActivationsMut::new(&mut got.codes, &mut got.sums, &mut got.scales, cols);
            isa.quantize(&x[row * cols..][..cols], &mut to, row);
            for other in 0..rows {
                let from = if other == row { &want } else { &garbage };
                assert_eq!(got.view().codes(other), from.view().codes(other), "{isa:?}");
                assert_eq!(got.view().sums(other), from.view().sums(other), "{isa:?}");
                assert_eq!(got.scales[other], from.scales[other], "{isa:?}");
            }
        }
    }
}

/// What lies behind the rotated pairs stays.
#[test]
fn rope_leaves_the_rest() {
    let mut random = Random(4);
    for pairs in (1..40).step_by(if MIRI { 19 } else { 1 }) {
        let (x, cos, sin) = (random.floats(2 * pairs + 21), random.floats(pairs), random.floats(pairs));
        let mut want = x.clone();
        Isa::SCALAR.rope(&mut want, &cos, &sin);
        assert_eq!(want[2 * pairs..], x[2 * pairs..]);
        for isa in vector_sets() {
            let mut got = x.clone();
            isa.rope(&mut got, &cos, &sin);
            assert_eq!(bits(&got), bits(&want), "{isa:?} {pairs} pairs");
        }
    }
}

/// Values that a careless kernel gets wrong.
fn awkward() -> impl Strategy<Value = f32> {
    prop_oneof![
        8 => -4.0f32..4.0,
        1 => proptest::num::f32::ANY,
        1 => prop::sample::select(SPECIAL.to_vec()),
    ]
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    #[cfg_attr(miri, ignore = "safe code")]
    fn mixtures_of_numbers(x in prop::collection::vec((awkward(), awkward()), 1..150)) {
        let (x, y): (Vec<f32>, Vec<f32>) = x.into_iter().unzip();
        assert_all_sets_agree(&x, &y);
    }

    #[test]
    #[cfg_attr(miri, ignore = "safe code")]
    fn quantized_rows_are_close(x in prop::collection::vec(-1e3f32..1e3, 1..150)) {
        let rows = Rows::quantize(Isa::SCALAR, &x, x.len());
        for (&x, &c) in x.iter().zip(&rows.codes) {
            prop_assert!((x - f32::from(c) * rows.scales[0]).abs() <= rows.scales[0] * 0.5001);
        }
    }
}
