//! Front ends: the settings of a sound, from the tensors that compute its features.

use std::f64::consts::TAU;

use kinglet_fixtures::host::shared;
use kinglet_media::{FrontEnd, SoundSettings, Spectrum, sound};
use safetensors::SafeTensors;

use super::npy;
use super::sounds::{close, settings};

/// The tensors of a front end, by their definitions; places of the spectrum above the bands are
/// left out.
struct Tensors {
    window: Vec<f32>,
    re: Vec<f32>,
    im: Vec<f32>,
    mel: Vec<f32>,
    dct: Vec<f32>,
    divisors: Vec<f32>,
}

impl Tensors {
    fn new(s: &SoundSettings) -> Self {
        let grid = |rows: u32, columns: u32, f: &dyn Fn(f64, f64) -> f64| -> Vec<f32> {
            let places = (0..rows).flat_map(|r| (0..columns).map(move |c| (r.into(), c.into())));
            places.map(|(r, c)| f(r, c) as f32).collect()
        };
        let to_mel = |f: f64| 1127.0 * (f / 700.0).ln_1p();
        let (lowest, highest) = (to_mel(s.lower.into()), to_mel(s.upper.into()));
        let hertz = f64::from(s.rate) / f64::from(s.fft);
        let places = (f64::from(s.upper) / hertz) as u32 + 1;
        let weight = |m: f64, k: f64| {
            let edge = |i: f64| lowest + (highest - lowest) * i / f64::from(s.mel + 1);
            let (x, a, b, c) = (to_mel(k * hertz), edge(m), edge(m + 1.0), edge(m + 2.0));
            if k == 0.0 { 0.0 } else { ((x - a) / (b - a)).min((c - x) / (c - b)).max(0.0) }
        };
        let (frame, fft, mel) = (f64::from(s.frame), f64::from(s.fft), f64::from(s.mel));
        Self {
            window: grid(1, s.frame, &|_, i| 0.5 - 0.5 * (TAU * i / frame).cos()),
            re: grid(places, s.frame, &|k, i| (TAU * k * i / fft).cos()),
            im: grid(places, s.frame, &|k, i| -(TAU * k * i / fft).sin()),
            mel: grid(s.mel, places, &weight),
            dct: grid(s.coefficients, s.mel, &|c, m| {
                (2.0 / mel).sqrt() * (TAU / 2.0 * c * (m + 0.5) / mel).cos()
            }),
            divisors: s.divisors.clone(),
        }
    }

    fn front_end<'a>(&'a self, s: &SoundSettings) -> FrontEnd<'a> {
        FrontEnd {
            rate: s.rate,
            samples: s.samples,
            hop: s.hop,
            floor: s.floor,
            spectrum: s.spectrum,
            window: &self.window,
            dft_re: &self.re,
            dft_im: &self.im,
            mel: &self.mel,
            dct: &self.dct,
            divisors: &self.divisors,
        }
    }
}

#[test]
fn settings_are_found_in_tensors() {
    let uneven = SoundSettings { lower: 61.5, upper: 3777.3, divisors: vec![3.0; 4], ..settings() };
    for expected in [settings(), SoundSettings { upper: 4000.0, fft: 100, ..settings() }, uneven] {
        let found = Tensors::new(&expected).front_end(&expected).settings().unwrap();
        let (lower, upper) = (found.lower - expected.lower, found.upper - expected.upper);
        assert!(lower.abs() < 1e-2 && upper.abs() < 1e-2, "{found}");
        let (lower, upper) = (expected.lower, expected.upper);
        assert_eq!(SoundSettings { lower, upper, ..found.clone() }, expected);
        if lower.fract() == 0.0 {
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn other_tensors_are_refused() {
    let s = settings();
    let refused = |change: fn(&mut Tensors)| {
        let mut tensors = Tensors::new(&s);
        change(&mut tensors);
        tensors.front_end(&s).settings().unwrap_err().to_string()
    };
    for (name, message) in [
        ("window", refused(|t| t.window[7] += 2e-4)),
        ("window", refused(|t| t.window.clear())),
        ("dft_re", refused(|t| t.re[500] = f32::NAN)),
        ("dct", refused(|t| t.re.truncate(80))),
        ("dft_re", refused(|t| t.re.fill(1.0))),
        ("dft_re", refused(|t| t.re.truncate(79))),
        ("dft_im", refused(|t| t.im[500] *= -1.0)),
        ("dft_im", refused(|t| t.im.truncate(4800))),
        ("mel", refused(|t| t.mel[100] += 2e-4)),
        ("mel", refused(|t| t.mel.fill(0.0))),
        ("mel", refused(|t| t.mel.fill(f32::INFINITY))),
        ("mel", refused(|t| t.mel.truncate(5))),
        ("dct", refused(|t| t.dct[13] -= 2e-4)),
        ("dct", refused(|t| t.dct.truncate(3))),
        ("norm_div", refused(|t| t.divisors.truncate(3))),
    ] {
        assert!(message.contains(&format!("`frontend.{name}`")), "{name}: {message}");
    }
    assert!(refused(|t| t.divisors[1] = 0.0).contains("divisors"));
}

/// The Keyword Transformer: its settings from its tensors, and four recordings from the settings
/// alone.
#[test]
fn a_real_front_end_is_reproduced() {
    let Some(shared) = shared() else { return };
    let dir = shared.join("models/kwt1");
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: &str| -> Vec<f32> {
        let data = file.tensor(&format!("frontend.{name}")).unwrap().data();
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let tensors = Tensors {
        window: tensor("window"),
        re: tensor("dft_re"),
        im: tensor("dft_im"),
        mel: tensor("mel"),
        dct: tensor("dct"),
        divisors: tensor("norm_div"),
    };
    let rate = config["sample_rate"].as_u64().unwrap() as u32;
    let settings = FrontEnd {
        rate,
        samples: rate,
        hop: config["hop"].as_u64().unwrap() as u32,
        floor: config["log_floor"].as_f64().unwrap() as f32,
        spectrum: Spectrum::Magnitude,
        window: &tensors.window,
        dft_re: &tensors.re,
        dft_im: &tensors.im,
        mel: &tensors.mel,
        dct: &tensors.dct,
        divisors: &tensors.divisors,
    };
    let settings = settings.settings().unwrap();
    let text = r#"{"rate":16000,"samples":16000,"frame":480,"hop":160,"window":"hann","fft":512,"spectrum":"magnitude","mel":80,"lower":20.0,"upper":7600.0,"floor":1e-12,"coefficients":40}"#;
    assert_eq!(settings.to_string(), text);

    let golden = npy(&dir.join("golden/features.npy"));
    let golden: Vec<f32> =
        golden.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    for (name, golden) in ["yes", "no", "noise", "silence"].iter().zip(golden.chunks_exact(98 * 40))
    {
        let got =
            sound(&dir.join(format!("src/{name}_1000ms.wav")), &text.parse().unwrap()).unwrap();
        let furthest = close(&got, golden);
        println!("{name}: at most {furthest:e} from the golden features");
        assert!(furthest < 1e-4, "{name}: {furthest}");
    }
}
