//! Reads `preprocessor_config.json`, the picture processor of a Hugging Face checkpoint.
//!
//! Its steps are resize, crop of the middle, rescale and normalise, each with a
//! `do_` switch that is on unless the file says otherwise (the crop: on when there
//! is a `crop_size`). The first two become [`PictureSettings`], the others a scale
//! and an offset for each channel, which belong to the model's first stack.
//!
//! A step that is not known here is an error when its switch is on, because a model
//! that sees other pictures than it was trained on answers, but wrongly.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::abbreviated;
use super::file::open;
use super::{Filter, MediaError, PictureSettings, Resize};

const LONGEST: u64 = 1 << 20;

/// How a checkpoint prepares pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessor {
    /// Size, and the way to it.
    pub picture: PictureSettings,
    /// What the bytes of red, green and blue are multiplied by.
    pub scale: [f32; 3],
    /// What is added then.
    pub offset: [f32; 3],
}

/// The settings of the file that matter; `null` is the same as nothing.
#[derive(Deserialize)]
struct Config {
    image_processor_type: Option<String>,
    feature_extractor_type: Option<String>,
    do_resize: Option<bool>,
    size: Option<Value>,
    resample: Option<u64>,
    do_center_crop: Option<bool>,
    crop_size: Option<Value>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<Value>,
    image_std: Option<Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Steps that change nothing here: a picture is always RGB, and labels are not read.
const HARMLESS: [&str; 2] = ["do_convert_rgb", "do_reduce_labels"];

impl Preprocessor {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or asks for what is not supported.
    pub fn read(path: &Path) -> Result<Self, MediaError> {
        let mut bytes = vec![];
        let io = |source| MediaError::Io { path: path.into(), source };
        open(path)?.take(LONGEST + 1).read_to_end(&mut bytes).map_err(io)?;
        if bytes.len() as u64 > LONGEST {
            return Err(MediaError::TooLong { path: path.into(), limit: LONGEST });
        }
        let config = serde_json::from_slice(&bytes)
            .map_err(|source| MediaError::Json { path: path.into(), source })?;
        Reading { path, config }.preprocessor()
    }
}

struct Reading<'a> {
    path: &'a Path,
    config: Config,
}

impl Reading<'_> {
    fn preprocessor(&self) -> Result<Preprocessor, MediaError> {
        let config = &self.config;
        let on = |(key, value): &(&String, &Value)| {
            let step = key.starts_with("do_")
                && !HARMLESS.contains(&key.as_str())
                && **value != Value::Bool(false);
            (step || *key == "crop_pct") && !value.is_null()
        };
        if let Some((key, value)) = config.rest.iter().find(on) {
            return Err(self.wrong(key, Some(value), "this step is not supported"));
        }
        let picture = self.picture()?;
        let factor = match config.do_rescale {
            Some(false) => 1.0,
            _ => config.rescale_factor.unwrap_or(1.0 / 255.0),
        };
        let (mean, deviation) = match config.do_normalize {
            Some(false) => ([0.0; 3], [1.0; 3]),
            _ => (
                self.channels("image_mean", config.image_mean.as_ref())?,
                self.channels("image_std", config.image_std.as_ref())?,
            ),
        };
        let scale = deviation.map(|d| (factor / d) as f32);
        let offset = [0, 1, 2].map(|c| (-mean[c] / deviation[c]) as f32);
        if !scale.iter().all(|s| s.is_normal()) || !offset.iter().all(|o| o.is_finite()) {
            let found = Value::from(deviation.to_vec());
            return Err(self.wrong(
                "image_std",
                Some(&found),
                "it leaves no finite scale and offset",
            ));
        }
        Ok(Preprocessor { picture, scale, offset })
    }

    fn picture(&self) -> Result<PictureSettings, MediaError> {
        let config = &self.config;
        let resize = if config.do_resize == Some(false) { Resize::Keep } else { self.resize()? };
        let cropped = config.do_center_crop.unwrap_or(config.crop_size.is_some());
        let (height, width) = match (cropped, resize) {
            (true, _) => self.crop()?,
            (false, Resize::Stretch { height, width, .. }) => (height, width),
            (false, _) => {
                let expected = "pictures would keep their proportions, and a model needs one size: \
                                add \"do_center_crop\": true and a crop_size";
                return Err(self.wrong(
                    "do_center_crop",
                    config.do_center_crop.map(Value::from).as_ref(),
                    expected,
                ));
            }
        };
        let settings = PictureSettings { resize, height, width };
        settings.check().map_err(|e| match e {
            MediaError::Settings { value, problem, .. } => MediaError::Preprocessor {
                path: self.path.into(),
                field: "size".into(),
                found: value,
                expected: problem,
            },
            other => other,
        })?;
        Ok(settings)
    }

    fn resize(&self) -> Result<Resize, MediaError> {
        let config = &self.config;
        let filter = match config.resample {
            Some(0) => Filter::Nearest,
            Some(1) => Filter::Lanczos,
            Some(2) => Filter::Bilinear,
            Some(3) => Filter::Bicubic,
            other => {
                let expected =
                    "supported are 0 (nearest), 1 (Lanczos), 2 (bilinear) and 3 (bicubic)";
                return Err(self.wrong("resample", other.map(Value::from).as_ref(), expected));
            }
        };
        let size = config.size.as_ref();
        if let Some((height, width)) = size.and_then(rectangle) {
            return Ok(Resize::Stretch { height, width, filter });
        }
        if let Some(length) = size.and_then(|s| only(s, "shortest_edge")) {
            return Ok(Resize::ShortSide { length, filter });
        }
        // Older files give one number, which means what the processor makes of it.
        let kind = config.image_processor_type.as_ref().or(config.feature_extractor_type.as_ref());
        match (size.and_then(side), kind.map(|k| family(k))) {
            (Some(length), Some("ViT" | "DeiT" | "Beit" | "Siglip")) => {
                Ok(Resize::Stretch { height: length, width: length, filter })
            }
            (Some(length), Some("CLIP" | "ChineseCLIP" | "Bit")) => {
                Ok(Resize::ShortSide { length, filter })
            }
            _ => Err(self.wrong(
                "size",
                size,
                r#"expected {"height": h, "width": w} or {"shortest_edge": n}"#,
            )),
        }
    }

    fn crop(&self) -> Result<(u32, u32), MediaError> {
        let size = self.config.crop_size.as_ref();
        let square = |s: &Value| side(s).map(|n| (n, n));
        size.and_then(|s| rectangle(s).or_else(|| square(s))).ok_or_else(|| {
            self.wrong("crop_size", size, r#"expected {"height": h, "width": w} or a number"#)
        })
    }

    fn channels(&self, field: &str, value: Option<&Value>) -> Result<[f64; 3], MediaError> {
        let one = |v: &Value| v.as_f64();
        let numbers = match value {
            Some(Value::Array(list)) => list.iter().map(one).collect::<Option<Vec<f64>>>(),
            Some(number) => one(number).map(|n| vec![n; 3]),
            None => None,
        };
        numbers.and_then(|n| n.try_into().ok()).ok_or_else(|| {
            self.wrong(field, value, "expected a number for each of red, green and blue")
        })
    }

    fn wrong(&self, field: &str, found: Option<&Value>, expected: &str) -> MediaError {
        let found = found.map_or("missing".into(), |v| abbreviated(&v.to_string()));
        MediaError::Preprocessor {
            path: self.path.into(),
            field: field.into(),
            found,
            expected: expected.into(),
        }
    }
}

/// `CLIP` of `CLIPImageProcessorFast`.
fn family(processor: &str) -> &str {
    let end = processor.find("ImageProcessor").or_else(|| processor.find("FeatureExtractor"));
    &processor[..end.unwrap_or(processor.len())]
}

fn side(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}

fn rectangle(value: &Value) -> Option<(u32, u32)> {
    let object = value.as_object().filter(|o| o.len() == 2)?;
    Some((side(object.get("height")?)?, side(object.get("width")?)?))
}

fn only(value: &Value, key: &str) -> Option<u32> {
    side(value.as_object().filter(|o| o.len() == 1)?.get(key)?)
}
