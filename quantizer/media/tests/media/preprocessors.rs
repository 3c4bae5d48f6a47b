//! Preprocessors of checkpoints.

use kinglet_media::{MediaError, Preprocessor};

use super::file;

const VIT: &str = r#"{"image_processor_type": "ViTImageProcessor", "do_resize": true, "size": {"height": 32, "width": 48},
    "resample": 2, "do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true,
    "image_mean": [0.5, 0.25, 0], "image_std": [0.5, 0.25, 1], "do_convert_rgb": null, "note": "x"}"#;
const CLIP: &str = r#"{"feature_extractor_type": "CLIPFeatureExtractor", "size": 40, "crop_size": 32, "resample": 3,
    "do_center_crop": true, "do_convert_rgb": true, "image_mean": 0.5, "image_std": 0.25, "do_rescale": false}"#;

fn read(json: &str) -> Result<Preprocessor, MediaError> {
    let (_dir, path) = file("preprocessor_config.json", json.as_bytes());
    Preprocessor::read(&path)
}

#[test]
fn preprocessors_become_settings() {
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
    // A processor's name matters only where `size` is one number.
    let unknown = VIT.replace("ViTImageProcessor", "Other");
    assert_eq!(read(&unknown).unwrap(), vit);
    let error =
        read(&unknown.replace(r#"{"height": 32, "width": 48}"#, "32")).unwrap_err().to_string();
    assert!(error.contains("`size`"), "{error}");
}

#[test]
fn other_preprocessors_are_refused() {
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
}
