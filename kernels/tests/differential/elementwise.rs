//! Norms, activations, rotation and quantization: every length up to some vectors, and every kind
//! of number.

use kinglet_kernels::{Activation, Isa, activations};
use proptest::prelude::*;

use crate::support::*;

/// An operation on `x` with a second operand of the same length.
type Op = fn(Isa, x: &mut [f32], y: &[f32]);

const OPS: [(&str, Op); 15] = [
    ("rms_norm", |isa, x, y| rms_norm(isa, x, y, 1e-5)),
    ("rms_norm without eps", |isa, x, y| rms_norm(isa, x, y, 0.0)),
    ("add", Isa::add),
    ("silu_mul", Isa::silu_mul),
    ("rope", |isa, x, y| isa.rope(x, &y[..x.len() / 2], &y[x.len() / 2..][..x.len() / 2])),
    ("transform", |isa, x, _| {
        let whole = x.len() / 4 * 4;
        if whole > 0 {
            isa.transform(&mut x[..whole]);
        }
    }),
    ("mul", Isa::mul),
    ("layer_norm", |isa, x, y| layer_norm(isa, x, y, 1e-5)),
    ("layer_norm without eps", |isa, x, y| layer_norm(isa, x, y, 0.0)),
    ("silu", |isa, x, _| isa.activate(Activation::Silu, x)),
    ("gelu", |isa, x, _| isa.activate(Activation::Gelu, x)),
    ("gelu_tanh", |isa, x, _| isa.activate(Activation::GeluTanh, x)),
    ("quick_gelu", |isa, x, _| isa.activate(Activation::QuickGelu, x)),
    ("relu", |isa, x, _| isa.activate(Activation::Relu, x)),
    ("tanh", |isa, x, _| isa.activate(Activation::Tanh, x)),
];

fn rms_norm(isa: Isa, x: &mut [f32], weight: &[f32], eps: f32) {
    let from = x.to_vec();
    isa.rms_norm(&from, weight, eps, x);
}

/// The weights backwards serve as the bias.
fn layer_norm(isa: Isa, x: &mut [f32], weight: &[f32], eps: f32) {
    let (from, bias): (Vec<f32>, Vec<f32>) = (x.to_vec(), weight.iter().rev().copied().collect());
    isa.layer_norm(&from, weight, &bias, eps, x);
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
fn activations_of_numbers_of_every_size() {
    let x: Vec<f32> = (0..=u32::MAX).step_by(4099).map(f32::from_bits).collect();
    let silu = |isa: Isa| {
        let mut out = x.clone();
        isa.silu_mul(&mut out, &vec![1.0; x.len()]);
        bits(&out)
    };
    let activated = |isa: Isa, activation| {
        let mut out = x.clone();
        isa.activate(activation, &mut out);
        out
    };
    for activation in Activation::ALL {
        let want = activated(Isa::SCALAR, activation);
        for (x, y) in x.iter().zip(&want) {
            assert!(!x.is_finite() || y.is_finite(), "{activation:?} of {x:e} is {y:e}");
            assert_eq!(x.is_nan(), y.is_nan(), "{activation:?} of {x:e} is {y:e}");
        }
        for isa in vector_sets() {
            for ((x, got), want) in x.iter().zip(bits(&activated(isa, activation))).zip(bits(&want))
            {
                assert_eq!(got, want, "{isa:?} {activation:?} {x:e}");
            }
        }
    }
    let want = bits(&activated(Isa::SCALAR, Activation::Silu));
    for isa in Isa::available() {
        for ((x, got), want) in x.iter().zip(silu(isa)).zip(&want) {
            assert_eq!(got, *want, "{isa:?} {x:e}");
        }
    }
}

/// erf in f64: its series below 3, and above it the continued fraction of erfc.
fn erf(x: f64) -> f64 {
    if x < 0.0 {
        return -erf(-x);
    }
    let around = 2.0 / std::f64::consts::PI.sqrt();
    if x < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..100 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        around * sum
    } else {
        let fraction = (1..60).rev().fold(x, |fraction, k| x + f64::from(k) / 2.0 / fraction);
        1.0 - around / 2.0 * (-x * x).exp() / fraction
    }
}

/// The largest absolute errors beyond the rounding of the result, as the numbers contract states
/// them.
#[test]
#[cfg_attr(miri, ignore = "safe code")]
fn activations_are_within_their_bounds() {
    let u = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    type Exact<'a> = &'a dyn Fn(f64) -> f64;
    let all: [(Activation, Exact<'_>, f64); 7] = [
        (Activation::Silu, &|x| x / (1.0 + (-x).exp()), 1.1e-6),
        (Activation::Gelu, &|x| x * (1.0 + erf(x / 2f64.sqrt())) / 2.0, 7e-7),
        (Activation::GeluTanh, &|x| x * (1.0 + u(x).tanh()) / 2.0, 1.1e-6),
        (Activation::Relu, &|x| x.max(0.0), 0.0),
        (Activation::Tanh, &f64::tanh, 2e-6),
        (Activation::Identity, &|x| x, 0.0),
        (Activation::QuickGelu, &|x| x / (1.0 + (-1.702 * x).exp()), 1.1e-6),
    ];
    for (activation, exact, bound) in all {
        let x: Vec<f32> =
            (-200_000..=200_000).map(|i| i as f32 * 1e-4).chain([-1e4, 1e4, 1e30]).collect();
        let mut got = x.clone();
        Isa::SCALAR.activate(activation, &mut got);
        let (mut worst, mut at) = (0.0, 0.0);
        for (&x, got) in x.iter().zip(got) {
            let want = exact(f64::from(x));
            let error = (f64::from(got) - want).abs() - want.abs() / 8_388_608.0;
            if error > worst {
                (worst, at) = (error, x);
            }
        }
        assert!(worst <= bound, "{activation:?}: {worst:e} at {at}");
    }
    let mut ends = [f32::NEG_INFINITY, f32::INFINITY, f32::MIN, f32::MAX];
    Isa::SCALAR.activate(Activation::Gelu, &mut ends);
    assert_eq!(ends.map(|v| v.abs() < 1e-30), [true, false, true, false]);
    assert_eq!(ends[1..], [f32::INFINITY, ends[2], f32::MAX]);
}

/// Layer norm in f64, also where the mean is a hundred times the deviation.
#[test]
#[cfg_attr(miri, ignore = "safe code")]
fn layer_norm_is_close() {
    let mut random = Random(5);
    for n in [1, 2, 15, 16, 17, 64, 192, 384, 1000] {
        for shift in [0.0, 1.0, -200.0] {
            let x: Vec<f32> = random.floats(n).iter().map(|x| x + shift).collect();
            let (weight, bias) = (random.floats(n), random.floats(n));
            let mut got = vec![0.0; n];
            Isa::SCALAR.layer_norm(&x, &weight, &bias, 1e-5, &mut got);
            let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
            let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n as f64;
            for i in 0..n {
                let normed = (f64::from(x[i]) - mean) / (variance + 1e-5).sqrt();
                let want = normed * f64::from(weight[i]) + f64::from(bias[i]);
                let error = (f64::from(got[i]) - want).abs();
                assert!(
                    error < 1e-6 * (4.0 + f64::from(shift.abs())),
                    "{n} numbers around {shift}: {error:e}"
                );
            }
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
            let mut to = kinglet_kernels::ActivationsMut::new(
                &mut got.codes,
                &mut got.sums,
                &mut got.scales,
                cols,
            );
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

/// What lies after the rotated pairs stays.
#[test]
fn rope_leaves_the_rest() {
    let mut random = Random(4);
    for pairs in (1..40).step_by(if MIRI { 19 } else { 1 }) {
        let (x, cos, sin) =
            (random.floats(2 * pairs + 21), random.floats(pairs), random.floats(pairs));
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

/// Every factorization up to 2^7 3^2 5: the definition in f64, and the values again when applied
/// twice.
#[test]
#[cfg_attr(miri, ignore = "safe code")]
fn the_transform_is_its_definition_and_its_own_inverse() {
    let mut random = Random(9);
    for n in [4, 8, 12, 16, 24, 32, 48, 172, 64, 80, 96, 144, 192, 288, 320, 576, 1536, 5760] {
        let x = random.floats(n);
        let mut got = x.clone();
        Isa::SCALAR.transform(&mut got);
        for (i, (want, got)) in transformed(&x).iter().zip(&got).enumerate() {
            assert!((want - f64::from(*got)).abs() < 1e-4, "{n}: value {i}: {want} {got}");
        }
        Isa::SCALAR.transform(&mut got);
        for (x, again) in x.iter().zip(&got) {
            assert!((x - again).abs() < 1e-4, "{n}: {x} {again}");
        }
    }
}

/// The product with the matrix, factor by factor: of order 2 as often as 2 divides the length, then
/// of order 3.
fn transformed(x: &[f32]) -> Vec<f64> {
    let mut x: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    let (mut rest, mut step) = (x.len(), 1);
    for order in [2, 3] {
        while rest % order == 0 {
            let from = x.clone();
            for (i, to) in x.iter_mut().enumerate() {
                let (digit, zero) = (i / step % order, i - i / step % order * step);
                let entry = |j: usize| match (order, digit, j) {
                    (2, 1, 1) => -std::f64::consts::FRAC_1_SQRT_2,
                    (2, ..) => std::f64::consts::FRAC_1_SQRT_2,
                    (_, i, j) => f64::from(u8::from(i == j)) - 2.0 / 3.0,
                };
                *to = (0..order).map(|j| entry(j) * from[zero + j * step]).sum();
            }
            (rest, step) = (rest / order, step * order);
        }
    }
    x
}

/// The high plane is that of one plane; the low one is made of what it leaves out, one
/// multiplication and one subtraction a value.
#[test]
fn two_planes_are_a_row_and_what_it_leaves_out() {
    let mut random = Random(21);
    for cols in [1, 31, 32, 33, 100, 576].into_iter().filter(|&cols| !MIRI || cols == 33) {
        let mut x = random.floats(3 * cols);
        x[cols] = if cols > 1 { f32::NAN } else { f32::INFINITY };
        x[2 * cols..].fill(0.0);
        let high = Rows::quantize(Isa::SCALAR, &x, cols);
        let mut left = x.clone();
        for (m, row) in left.chunks_mut(cols).enumerate() {
            row.iter_mut()
                .zip(high.view().codes(m))
                .for_each(|(x, &code)| *x -= f32::from(code) * high.scales[m]);
        }
        let low = Rows::quantize(Isa::SCALAR, &left, cols);
        for isa in all_sets() {
            let both = Rows::quantize_planes(isa, &x, cols);
            let codes = activations::stride(cols);
            for m in 0..3 {
                for (plane, of) in [&high, &low].into_iter().enumerate() {
                    let at = 2 * m + plane;
                    assert_eq!(
                        both.codes[at * codes..][..codes],
                        *of.view().codes(m),
                        "{isa:?} {cols}"
                    );
                    assert_eq!(
                        bits(&both.scales[at..=at]),
                        bits(&of.scales[m..=m]),
                        "{isa:?} {cols}"
                    );
                    let sums = activations::sums(cols);
                    assert_eq!(
                        both.sums[at * sums..][..sums],
                        *of.view().sums(m),
                        "{isa:?} {cols}"
                    );
                }
                let error = |k: usize| {
                    let value = |of: &Rows| f32::from(of.view().codes(m)[k]) * of.scales[m];
                    (value(&high) + value(&low) - x[m * cols + k]).abs()
                };
                // A step of the low plane is a 254th of a step of the high one.
                assert!(
                    m == 1 || (0..cols).all(|k| error(k) <= 0.51 * high.scales[m] / 254.0),
                    "{cols}"
                );
            }
        }
    }
}
