//! Recordings.

use std::path::Path;

use hound::{SampleFormat, WavSpec, WavWriter};
use kinglet_fixtures::host::Random;
use kinglet_media::{MediaError, SoundSettings, Spectrum, Window, sound};

use super::{damage, file};

const SPEC: WavSpec = WavSpec {
    channels: 1,
    sample_rate: 8000,
    bits_per_sample: 16,
    sample_format: SampleFormat::Int,
};

pub(super) fn settings() -> SoundSettings {
    SoundSettings {
        rate: 8000,
        samples: 200,
        frame: 80,
        hop: 60,
        window: Window::Hann,
        fft: 128,
        spectrum: Spectrum::Magnitude,
        mel: 10,
        lower: 60.0,
        upper: 3800.0,
        floor: 1e-6,
        coefficients: 4,
        divisors: vec![2.0, 0.5, -1.0, 3.0],
    }
}

fn recording(spec: WavSpec, samples: &[i32]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(vec![]);
    let mut writer = WavWriter::new(&mut bytes, spec).unwrap();
    for &s in samples {
        match spec.sample_format {
            SampleFormat::Int => writer.write_sample(s).unwrap(),
            SampleFormat::Float => writer.write_sample(s as f32 / 32768.0).unwrap(),
        }
    }
    writer.finalize().unwrap();
    bytes.into_inner()
}

fn hear(bytes: &[u8], settings: &SoundSettings) -> Result<Vec<f32>, MediaError> {
    let (_dir, path) = file("recording.wav", bytes);
    sound(&path, settings)
}

pub(super) fn close(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The recording of mfcc.py, shorter than what the model hears.
fn tones() -> Vec<i32> {
    (0..150).map(|i| ((i * i * 37) % 2001 - 1000) * 16).collect()
}

/// Expected: `python mfcc.py`.
#[test]
fn features_follow_their_definition() {
    let magnitude = [
        4.16034, -2.8845, 0.2531, -0.04639, 4.04507, -3.35054, -0.29828, -0.01234, 2.27087,
        -3.50577, -0.17837, -0.1068,
    ];
    let power = [
        5.20722, -2.97744, 0.64838, 0.05828, 4.88526, -4.11308, -0.67111, 0.07502, 1.21013,
        -3.97559, -0.37486, -0.1439,
    ];
    let wav = recording(SPEC, &tones());
    let got = hear(&wav, &settings()).unwrap();
    assert!(close(&got, &magnitude) < 1e-5, "{got:?}");
    let got = hear(&wav, &SoundSettings { spectrum: Spectrum::Power, ..settings() }).unwrap();
    assert!(close(&got, &power) < 1e-5, "{got:?}");
}

#[test]
fn all_kinds_of_samples_are_heard_alike() {
    let expected = hear(&recording(SPEC, &tones()), &settings()).unwrap();
    let with = |bits_per_sample, sample_format, shift: u32| {
        let samples: Vec<i32> = tones().iter().map(|s| s << shift).collect();
        hear(&recording(WavSpec { bits_per_sample, sample_format, ..SPEC }, &samples), &settings())
            .unwrap()
    };
    assert_eq!(with(24, SampleFormat::Int, 8), expected);
    assert_eq!(with(32, SampleFormat::Int, 16), expected);
    assert_eq!(with(32, SampleFormat::Float, 0), expected);

    // Two channels whose mean it is, and what follows the last sample that the model hears.
    let mut stereo: Vec<i32> = tones().iter().flat_map(|s| [s + 100, s - 100]).collect();
    stereo.resize(400, 0);
    stereo.extend([9999; 50]);
    let got = hear(&recording(WavSpec { channels: 2, ..SPEC }, &stereo), &settings()).unwrap();
    assert!(close(&got, &expected) < 1e-5);

    let eight: Vec<i32> = tones().iter().map(|s| s >> 8).collect();
    let coarse: Vec<i32> = eight.iter().map(|s| s << 8).collect();
    let got =
        hear(&recording(WavSpec { bits_per_sample: 8, ..SPEC }, &eight), &settings()).unwrap();
    assert_eq!(got, hear(&recording(SPEC, &coarse), &settings()).unwrap());
}

#[test]
fn damaged_and_foreign_recordings_are_refused() {
    let good = recording(SPEC, &tones());
    let message = |bytes: &[u8]| hear(bytes, &settings()).unwrap_err().to_string();
    for cut in [0, 3, 11, 20, 40, good.len() - 1, good.len() - 100] {
        assert!(
            message(&good[..cut]).contains("must be whole"),
            "{cut}: {}",
            message(&good[..cut])
        );
    }
    assert!(message(b"RIFFxxxxWAVEnonsense").contains("recording.wav"));
    assert!(message(&recording(SPEC, &[])).contains("no samples"));
    let fast = recording(WavSpec { sample_rate: 44_100, ..SPEC }, &[1, 2]);
    assert!(message(&fast).contains("needs 8000 Hz") && message(&fast).contains("44100 Hz"));

    let float = WavSpec { bits_per_sample: 32, sample_format: SampleFormat::Float, ..SPEC };
    let mut bytes = recording(float, &[1, 2, 3]);
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(message(&bytes).contains("sample 2"));
    bytes[end - 4..].copy_from_slice(&f32::MAX.to_le_bytes());
    assert!(hear(&bytes, &settings()).unwrap().iter().all(|f| f.is_finite()));

    // A length far beyond the file's.
    let mut long = good.clone();
    let data = good.windows(4).position(|w| w == b"data").unwrap();
    long[data + 4..data + 8].copy_from_slice(&0x7fff_fff0_u32.to_le_bytes());
    assert!(message(&long).contains("must be whole"));
    assert!(matches!(sound(Path::new("/"), &settings()), Err(MediaError::NotAFile { .. })));
}

#[test]
fn sound_settings_are_what_their_text_says() {
    let text = r#"{"rate":8000,"samples":200,"frame":80,"hop":60,"window":"hann","fft":128,"spectrum":"magnitude","mel":10,"lower":60.0,"upper":3800.0,"floor":0.000001,"coefficients":4,"divisors":[2.0,0.5,-1.0,3.0]}"#;
    assert_eq!(settings().to_string(), text);
    assert_eq!(text.parse::<SoundSettings>().unwrap(), settings());
    let plain = SoundSettings { divisors: vec![], ..settings() };
    assert_eq!(plain.to_string().parse::<SoundSettings>().unwrap(), plain);
    assert_eq!(settings().frames(), 3);

    for (from, to) in [
        (r#""rate":8000"#, r#""rate":0"#),
        (r#""rate":8000"#, r#""rate":7000"#),
        (r#""samples":200"#, r#""samples":79"#),
        (r#""samples":200"#, r#""samples":4000000000"#),
        (r#""samples":200,"frame":80,"hop":60"#, r#""samples":16777216,"frame":80,"hop":1"#),
        (r#""frame":80"#, r#""frame":0"#),
        (r#""frame":80"#, r#""frame":129"#),
        (r#""hop":60"#, r#""hop":0"#),
        (r#""fft":128"#, r#""fft":100000"#),
        (r#""mel":10"#, r#""mel":3"#),
        (r#""mel":10"#, r#""mel":100000"#),
        (r#""coefficients":4"#, r#""coefficients":0"#),
        (r#""coefficients":4"#, r#""coefficients":3"#),
        (r#""lower":60.0"#, r#""lower":-1"#),
        (r#""lower":60.0"#, r#""lower":3800"#),
        (r#""floor":0.000001"#, r#""floor":0"#),
        (r#""floor":0.000001"#, r#""floor":1e300"#),
        ("-1.0", "0"),
        ("hann", "kaiser"),
        ("}", r#","more":1}"#),
        (r#""hop":60,"#, ""),
        ("{", ""),
    ] {
        let message = text.replace(from, to).parse::<SoundSettings>().unwrap_err().to_string();
        assert!(message.contains("`sound`"), "{message}");
    }
}

/// Whatever is changed in a file, something comes of it and nothing panics.
#[test]
fn changed_bytes_harm_nothing() {
    let mut wav = recording(SPEC, &[1000, -1000, 3, 4, 5, 6]);
    wav.extend([0; 8]);
    let mut random = Random(7);
    for _ in 0..2000 {
        let mut bytes = wav.clone();
        damage(&mut bytes, &mut random);
        if let Ok(features) = hear(&bytes, &settings()) {
            assert!(features.len() == 12 && features.iter().all(|f| f.is_finite()));
        }
    }
}
