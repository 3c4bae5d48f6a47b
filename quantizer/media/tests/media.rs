//! Pictures and recordings: what Pillow and the definitions give, files that are damaged or lie,
//! and, where the checkpoints are, a real front end and real pictures.

use std::f64::consts::TAU;
use std::path::{Path, PathBuf};

use hound::{SampleFormat, WavSpec, WavWriter};
use image::{DynamicImage, ImageFormat, RgbImage, RgbaImage};
use kinglet_fixtures::host::shared;
use kinglet_media::{
    Filter, FrontEnd, MediaError, PictureSettings, Preprocessor, Resize, SoundSettings, Spectrum,
    Window, picture, sound,
};
use safetensors::SafeTensors;
use tempfile::TempDir;

/// A folder, and a file in it with these bytes.
fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(vec![]);
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn prepare(bytes: &[u8], settings: &str) -> Result<Vec<u8>, MediaError> {
    let (_dir, path) = file("picture", bytes);
    picture(&path, &settings.parse().unwrap())
}

/// Slopes, hard edges and noise: the same formula as in pillow.py.
fn source(height: u32, width: u32) -> DynamicImage {
    let mut noise: u32 = 1;
    let mut bytes = vec![];
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
        noise = noise.wrapping_mul(1_103_515_245).wrapping_add(12345) % (1 << 31);
        bytes.extend([
            (7 * x + 3 * y) as u8,
            255 * ((x / 3 + y / 2) % 2) as u8,
            (noise >> 16) as u8,
        ]);
    }
    RgbImage::from_raw(width, height, bytes).unwrap().into()
}

/// Every case of pillow.txt, which pillow.py writes.
#[test]
fn pictures_are_bit_for_bit_what_pillow_makes() {
    for line in include_str!("media/pillow.txt").lines() {
        let [size, settings, hex] = line.split('"').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let size: Vec<u32> = size.split_whitespace().map(|n| n.parse().unwrap()).collect();
        let got = prepare(&encoded(&source(size[0], size[1]), ImageFormat::Png), settings).unwrap();
        let got: String = got.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(got, hex.trim(), "{settings} of {size:?}");
    }
}

#[test]
fn a_picture_of_the_right_size_is_not_changed() {
    let picture = source(12, 17);
    let png = encoded(&picture, ImageFormat::Png);
    for settings in
        ["stretch lanczos 12x17", "stretch bilinear 12x17", "crop 12x17", "stretch nearest 12x17"]
    {
        assert_eq!(prepare(&png, settings).unwrap(), picture.as_bytes(), "{settings}");
    }
    let bmp = encoded(&picture, ImageFormat::Bmp);
    assert_eq!(prepare(&bmp, "crop 12x17").unwrap(), picture.as_bytes());
}

#[test]
fn other_pixels_become_rgb() {
    let rgba =
        RgbaImage::from_raw(3, 1, vec![9, 8, 7, 255, 200, 100, 0, 0, 0, 100, 200, 51]).unwrap();
    let got = prepare(&encoded(&rgba.into(), ImageFormat::Png), "crop 1x3").unwrap();
    assert_eq!(got, [9, 8, 7, 255, 255, 255, 204, 224, 244]);

    let grey = DynamicImage::from(source(4, 4).to_luma8());
    let got = prepare(&encoded(&grey, ImageFormat::Png), "crop 4x4").unwrap();
    assert_eq!(got, grey.to_rgb8().into_raw());

    let wide = DynamicImage::from(source(4, 4).to_rgb16());
    assert_eq!(
        prepare(&encoded(&wide, ImageFormat::Png), "crop 4x4").unwrap(),
        source(4, 4).as_bytes()
    );

    let smooth = DynamicImage::from(RgbImage::from_fn(16, 16, |x, y| {
        [8 * x as u8, 100, 8 * y as u8].into()
    }));
    let got = prepare(&encoded(&smooth, ImageFormat::Jpeg), "crop 16x16").unwrap();
    let furthest = got.iter().zip(smooth.as_bytes()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(furthest < 32, "{furthest}");
}

/// A JPEG that says it was taken with the camera on its side.
#[test]
fn pictures_are_turned_upright() {
    let picture = RgbImage::from_fn(16, 8, |x, _| if x < 8 { [255; 3] } else { [0; 3] }.into());
    let jpeg = encoded(&picture.into(), ImageFormat::Jpeg);
    let exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let turned = [&jpeg[..2], exif, &jpeg[2..]].concat();
    let got = prepare(&turned, "crop 16x8").unwrap();
    assert!(
        got[..3] == [255; 3] && got[got.len() - 3..] == [0; 3],
        "a quarter turn: {:?}",
        &got[..24]
    );
    assert!(matches!(
        prepare(&turned, "crop 8x16"),
        Err(MediaError::PictureTooSmall { width: 8, height: 16, .. })
    ));
}

fn refused(bytes: &[u8]) -> String {
    prepare(bytes, "short 8 bicubic crop 8x8").unwrap_err().to_string()
}

/// A PNG's header, with a checksum that is right.
fn png_of(width: u32, height: u32) -> Vec<u8> {
    let mut chunk = b"IHDR".to_vec();
    chunk.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
    chunk.extend([8, 6, 0, 0, 0]);
    let crc = crc32fast::hash(&chunk).to_be_bytes();
    [b"\x89PNG\r\n\x1a\n\0\0\0\x0d", &chunk[..], &crc].concat()
}

#[test]
fn damaged_and_hostile_pictures_are_refused() {
    let png = encoded(&source(40, 40), ImageFormat::Png);
    let jpeg = encoded(&source(40, 40), ImageFormat::Jpeg);
    for whole in [&png, &jpeg] {
        assert!(prepare(whole, "short 8 bicubic crop 8x8").is_ok());
        for cut in (8..whole.len() - 16).step_by(7) {
            let message = refused(&whole[..cut]);
            assert!(
                message.contains("damaged or cut short") && message.contains("picture"),
                "{cut}: {message}"
            );
        }
    }
    let mut flipped = png.clone();
    flipped[png.len() / 2] ^= 0x10;
    assert!(refused(&flipped).contains("damaged or cut short"));

    for (width, height) in
        [(u32::MAX >> 1, u32::MAX >> 1), (70_000, 1), (1, 70_000), (30_000, 30_000)]
    {
        let mut bomb = png_of(width, height);
        bomb.extend(&png[33..]);
        let message = refused(&bomb);
        assert!(message.contains("scale it down"), "{message}");
    }
    let nothing = [&png_of(0, 0)[..], &png[33..]].concat();
    assert!(refused(&nothing).contains("damaged"));

    assert!(refused(b"").contains("convert it to PNG"));
    assert!(refused(b"hello, I am a text").contains("something else"));
    assert!(refused(b"GIF89a....").contains("Gif"));
    let (dir, path) = file("x", b"");
    let settings = "crop 8x8".parse().unwrap();
    assert!(matches!(picture(dir.path(), &settings), Err(MediaError::NotAFile { .. })));
    assert!(matches!(picture(&path.with_extension("gone"), &settings), Err(MediaError::Io { .. })));
}

/// The longest strip that is read, from which only a crop is computed.
#[test]
fn extreme_proportions_are_no_work() {
    let strip = encoded(&RgbImage::new(65_535, 1).into(), ImageFormat::Png);
    for filter in ["nearest", "bilinear", "bicubic", "lanczos"] {
        let got = prepare(&strip, &format!("short 4096 {filter} crop 8x8")).unwrap();
        assert_eq!(got, [0; 192]);
        assert_eq!(prepare(&strip, &format!("stretch {filter} 3x2")).unwrap(), [0; 18]);
    }
}

/// Whatever is changed in a file, something comes of it and nothing panics.
#[test]
fn changed_bytes_harm_nothing() {
    let small = source(24, 20);
    let mut wav = recording(SPEC, &[1000, -1000, 3, 4, 5, 6]);
    wav.extend([0; 8]);
    let mut random = kinglet_fixtures::host::Random(7);
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp] {
        let good = encoded(&small, format);
        for _ in 0..400 {
            let mut bytes = good.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len());
                bytes[at] = random.below(256) as u8;
            }
            if let Ok(rgb) = prepare(&bytes, "short 8 bilinear crop 8x8") {
                assert_eq!(rgb.len(), 192);
            }
        }
    }
    for _ in 0..2000 {
        let mut bytes = wav.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            bytes[at] = random.below(256) as u8;
        }
        let (_dir, path) = file("x.wav", &bytes);
        if let Ok(features) = sound(&path, &settings()) {
            assert!(features.len() == 12 && features.iter().all(|f| f.is_finite()));
        }
    }
}

#[test]
fn picture_settings_are_what_their_text_says() {
    let (height, width, filter) = (224, 200, Filter::Bicubic);
    for (resize, text) in [
        (Resize::Stretch { height, width, filter }, "stretch bicubic 224x200"),
        (Resize::Stretch { height: 256, width, filter }, "stretch bicubic 256x200 crop 224x200"),
        (
            Resize::ShortSide { length: 248, filter: Filter::Lanczos },
            "short 248 lanczos crop 224x200",
        ),
        (
            Resize::ShortSide { length: 248, filter: Filter::Nearest },
            "short 248 nearest crop 224x200",
        ),
        (
            Resize::ShortSide { length: 248, filter: Filter::Bilinear },
            "short 248 bilinear crop 224x200",
        ),
        (Resize::Keep, "crop 224x200"),
    ] {
        let settings = PictureSettings { resize, height, width };
        assert_eq!(settings.to_string(), text);
        assert_eq!(text.parse::<PictureSettings>().unwrap(), settings);
    }
    for wrong in [
        "",
        "crop",
        "crop 8",
        "crop 0x8",
        "crop 8x5000",
        "crop 8x8 ",
        "stretch 8x8",
        "stretch box 8x8",
        "stretch nearest 0x8",
        "stretch nearest 8x8 crop 9x8",
        "stretch nearest 99999x8 crop 8x8",
        "short 8 bicubic",
        "short 7 bicubic crop 8x7",
        "short 7 bicubic crop 7x8",
        "short 0 bicubic crop 8x8",
        "short 4294967296 bicubic crop 8x8",
        "crop 8x8 crop 8x8",
    ] {
        let message = wrong.parse::<PictureSettings>().unwrap_err().to_string();
        assert!(message.contains("`picture`") && message.contains(wrong), "{message}");
    }
}

const VIT: &str = r#"{"image_processor_type": "ViTImageProcessor", "do_resize": true, "size": {"height": 32, "width": 48},
    "resample": 2, "do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true,
    "image_mean": [0.5, 0.25, 0], "image_std": [0.5, 0.25, 1], "do_convert_rgb": null, "note": "x"}"#;
const CLIP: &str = r#"{"feature_extractor_type": "CLIPFeatureExtractor", "size": 40, "crop_size": 32, "resample": 3,
    "do_center_crop": true, "do_convert_rgb": true, "image_mean": 0.5, "image_std": 0.25, "do_rescale": false}"#;

#[test]
fn preprocessors_become_settings() {
    let read = |json: &str| {
        let (_dir, path) = file("preprocessor_config.json", json.as_bytes());
        Preprocessor::read(&path)
    };
    let vit = read(VIT).unwrap();
    assert_eq!(vit.picture.to_string(), "stretch bilinear 32x48");
    let unit = 1.0 / 255.0;
    assert_eq!(vit.scale, [2.0 * unit, 4.0 * unit, unit]);
    assert_eq!(vit.offset, [-1.0, -1.0, 0.0]);

    let clip = read(CLIP).unwrap();
    assert_eq!(clip.picture.to_string(), "short 40 bicubic crop 32x32");
    assert_eq!((clip.scale, clip.offset), ([4.0; 3], [-2.0; 3]));

    for (from, to, settings) in [
        (r#"{"height": 32, "width": 48}"#, "32", "stretch bilinear 32x32"),
        (
            r#"{"height": 32, "width": 48}"#,
            r#"{"shortest_edge": 40}, "crop_size": 24"#,
            "short 40 bilinear crop 24x24",
        ),
        (
            r#""do_resize": true"#,
            r#""do_resize": false, "crop_size": {"height": 9, "width": 8}"#,
            "crop 9x8",
        ),
        (
            r#""resample": 2"#,
            r#""resample": 1, "crop_size": 24"#,
            "stretch lanczos 32x48 crop 24x24",
        ),
    ] {
        assert_eq!(read(&VIT.replace(from, to)).unwrap().picture.to_string(), settings);
    }
    for (from, to, message) in [
        (r#""resample": 2"#, r#""resample": 5"#, "`resample`"),
        (r#""resample": 2"#, r#""resample": null"#, "missing"),
        (r#"{"height": 32, "width": 48}"#, r#"{"shortest_edge": 40}"#, "`do_center_crop`"),
        (r#"{"height": 32, "width": 48}"#, r#"{"shortest_edge": 4, "longest_edge": 9}"#, "`size`"),
        (r#"{"height": 32, "width": 48}"#, r#"{"height": 0, "width": 48}"#, "sides must be"),
        (
            r#"{"height": 32, "width": 48}"#,
            r#"{"height": 32, "width": 48}, "crop_size": 40"#,
            "larger",
        ),
        (r#""note": "x""#, r#""do_pad": true"#, "`do_pad`"),
        (r#""note": "x""#, r#""crop_pct": 0.9"#, "`crop_pct`"),
        ("[0.5, 0.25, 1]", "[0.5, 0.25]", "`image_std`"),
        ("[0.5, 0.25, 1]", "[0.5, 0, 1]", "finite"),
        ("[0.5, 0.25, 0]", r#"["a", 0, 0]"#, "`image_mean`"),
        (r#""do_resize": true"#, r#""do_resize": 7"#, "expected a boolean"),
        ("{", "[", "configuration"),
    ] {
        let error = read(&VIT.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    // A processor's name matters only where `size` is one number.
    let unknown = VIT.replace("ViTImageProcessor", "Other");
    assert_eq!(read(&unknown).unwrap(), vit);
    let error =
        read(&unknown.replace(r#"{"height": 32, "width": 48}"#, "32")).unwrap_err().to_string();
    assert!(error.contains("`size`"), "{error}");
}

// Sound.

const SPEC: WavSpec = WavSpec {
    channels: 1,
    sample_rate: 8000,
    bits_per_sample: 16,
    sample_format: SampleFormat::Int,
};

fn settings() -> SoundSettings {
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

fn close(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// The recording of mfcc.py, shorter than what the model hears.
fn tones() -> Vec<i32> {
    (0..150).map(|i| ((i * i * 37) % 2001 - 1000) * 16).collect()
}

/// Expected: `python media/mfcc.py`.
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

fn npy(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    let header = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[10 + header..].to_vec()
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

#[test]
fn real_pictures_come_through() {
    let Some(shared) = shared() else { return };
    let dir = shared.join("models/vit_tiny");
    let preprocessor = Preprocessor::read(&dir.join("preprocessor_config.json")).unwrap();
    assert_eq!(preprocessor.picture.to_string(), "stretch bicubic 224x224");
    assert_eq!((preprocessor.scale, preprocessor.offset), ([2.0 / 255.0; 3], [-1.0; 3]));
    let golden = npy(&dir.join("golden/procedural_rgb_u8.npy"));
    for (i, golden) in golden.chunks_exact(224 * 224 * 3).enumerate() {
        let path = dir.join(format!("golden/procedural_{i}.png"));
        for settings in [preprocessor.picture, "short 224 lanczos crop 224x224".parse().unwrap()] {
            assert!(picture(&path, &settings).unwrap() == golden, "picture {i}");
        }
    }
}
