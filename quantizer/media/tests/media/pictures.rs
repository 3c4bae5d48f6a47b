//! Pictures.

use image::{DynamicImage, ImageFormat, RgbImage, RgbaImage};
use kinglet_fixtures::host::{Random, shared};
use kinglet_media::{Filter, MediaError, PictureSettings, Preprocessor, Resize, picture};

use super::{damage, file, npy};

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
    for line in include_str!("pillow.txt").lines() {
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
    let mut random = Random(7);
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp] {
        let good = encoded(&small, format);
        for _ in 0..400 {
            let mut bytes = good.clone();
            damage(&mut bytes, &mut random);
            if let Ok(rgb) = prepare(&bytes, "short 8 bilinear crop 8x8") {
                assert_eq!(rgb.len(), 192);
            }
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
