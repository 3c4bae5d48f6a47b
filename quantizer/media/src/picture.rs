//! Pictures: decoded, made upright RGB, resized and cropped.
//!
//! - PNG, JPEG and BMP, told apart by their first bytes. A colour profile is not
//!   applied; 16-bit channels are rounded to 8.
//! - The orientation a camera noted (EXIF) is applied, so that the picture stands
//!   as people see it.
//! - Transparent pixels are laid over white: `(a c + (255 - a) 255) / 255`, rounded.
//! - Resizing is Pillow's (`resample.rs` says how, in formulas). A crop is of the middle,
//!   and begins at `(side - cropped) / 2`, rounded down.

use std::fmt::{self, Display, Formatter};
use std::io::{Cursor, Read};
use std::path::Path;
use std::str::FromStr;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader};

use super::MediaError;
use super::error::abbreviated;
use super::file::open;
use super::resample::{Axis, Filter, resample};

/// The longest file that is read.
const LONGEST: u64 = 1 << 28;
/// The most pixels that are decoded.
const PIXELS: u64 = 1 << 26;
/// The longest side of a decoded picture.
const LONG_SIDE: u32 = u16::MAX as u32;
/// The most bytes that a decoded picture, and a decoder beside it, may take.
const DECODED: u64 = 1 << 29;
/// The longest side of a model's picture, and of what it is cropped from.
const SIDE: u32 = 4096;

/// How a model's pictures are prepared, before its own scale and offset of each channel.
///
/// As text, the form in a file's metadata: `stretch bicubic 72x72`, `short 248 bicubic crop
/// 224x224`, `stretch bilinear 256x256 crop 224x224` or `crop 224x224`; sizes are height x width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureSettings {
    /// What happens before the middle is cut out.
    pub resize: Resize,
    /// Rows of the prepared picture.
    pub height: u32,
    /// Pixels of a row.
    pub width: u32,
}

/// What happens to a picture before its middle is cut out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// Nothing: the picture has to be as large as the model's, or larger.
    Keep,
    /// It takes this size, whatever its proportions.
    Stretch {
        /// The new height.
        height: u32,
        /// The new width.
        width: u32,
        /// How pixels are made.
        filter: Filter,
    },
    /// Its shorter side takes this length, and the longer one is in proportion, rounded down.
    ShortSide {
        /// The new length of the shorter side.
        length: u32,
        /// How pixels are made.
        filter: Filter,
    },
}

/// The picture at `path` as the model wants it: `height` rows of `width` pixels, each red, green
/// and blue.
///
/// # Errors
///
/// The file cannot be read, is not a whole picture of a known kind, is absurdly large, or is
/// smaller than what is to be cut out of it; the settings make no sense.
pub fn picture(path: &Path, settings: &PictureSettings) -> Result<Vec<u8>, MediaError> {
    settings.check()?;
    let (rgb, height, width) = decode(path)?;
    let Some((rows, columns)) = settings.axes(height, width) else {
        let (need_height, need_width) = (settings.height, settings.width);
        return Err(MediaError::PictureTooSmall {
            path: path.into(),
            width,
            height,
            need_width,
            need_height,
        });
    };
    let filter = match settings.resize {
        Resize::Keep => Filter::Nearest,
        Resize::Stretch { filter, .. } | Resize::ShortSide { filter, .. } => filter,
    };
    Ok(resample(&rgb, &rows, &columns, filter))
}

/// The pixels of a file, its height and its width.
///
/// # Errors
///
/// When the file cannot be read, is too large, is no picture of a known format, or is damaged.
pub fn decode(path: &Path) -> Result<(Vec<u8>, u32, u32), MediaError> {
    let mut bytes = vec![];
    let io = |source| MediaError::Io { path: path.into(), source };
    open(path)?.take(LONGEST + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > LONGEST {
        return Err(MediaError::TooLong { path: path.into(), limit: LONGEST });
    }
    let format = image::guess_format(&bytes).ok();
    let Some(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Bmp)) = format else {
        let looks = format.map_or("something else".into(), |f| format!("{f:?}"));
        return Err(MediaError::NotAPicture { path: path.into(), looks });
    };
    if format == ImageFormat::Jpeg && !jpeg_is_whole(&bytes) {
        return Err(MediaError::Picture {
            path: path.into(),
            problem: "its end is missing".into(),
        });
    }

    let too_large =
        || MediaError::PictureTooLarge { path: path.into(), pixels: PIXELS, side: LONG_SIDE };
    let wrong = |e: ImageError| match e {
        ImageError::Limits(_) => too_large(),
        e => MediaError::Picture { path: path.into(), problem: abbreviated(&e.to_string()) },
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(DECODED);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(wrong)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > PIXELS || width.max(height) > LONG_SIDE || decoder.total_bytes() > DECODED {
        return Err(too_large());
    }
    let orientation = decoder.orientation().map_err(wrong)?;
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(wrong)?;
    decoded.apply_orientation(orientation);
    let (width, height) = (decoded.width(), decoded.height());
    if width == 0 || height == 0 {
        return Err(MediaError::Picture { path: path.into(), problem: "it has no pixels".into() });
    }
    Ok((rgb(decoded), height, width))
}

fn rgb(picture: DynamicImage) -> Vec<u8> {
    if !picture.color().has_alpha() {
        return picture.into_rgb8().into_raw();
    }
    let over_white = |c: u8, a: u8| {
        let (c, a) = (u32::from(c), u32::from(a));
        ((c * a + 255 * (255 - a) + 127) / 255) as u8
    };
    let rgba = picture.into_rgba8().into_raw();
    rgba.as_chunks::<4>()
        .0
        .iter()
        .flat_map(|&[r, g, b, a]| [r, g, b].map(|c| over_white(c, a)))
        .collect()
}

/// Whether the marker of the end follows the last scan. The decoder itself fills up what is
/// missing.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        match rest {
            // Filling, and what can stand inside a scan.
            [0xff, 0xff, ..] => rest = &rest[1..],
            [0xff, 0x00 | 0x01 | 0xd0..=0xd8, ..] => rest = &rest[2..],
            [0xff, 0xd9, ..] => return true,
            // A segment with its length.
            [0xff, _, high, low, ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                rest = rest.get(2 + length..).unwrap_or_default();
            }
            [_, following @ ..] if following.len() > 1 => rest = following,
            _ => return false,
        }
    }
}

impl PictureSettings {
    /// Where the settings stand in a file's metadata.
    pub const KEY: &'static str = "picture";

    /// The least and the most a side may have.
    pub(super) fn side(n: u32) -> bool {
        (1..=SIDE).contains(&n)
    }

    fn wrong(value: &str, problem: &str) -> MediaError {
        MediaError::Settings {
            key: Self::KEY,
            value: format!("\"{}\"", abbreviated(value)),
            problem: problem.into(),
        }
    }

    pub(super) fn check(&self) -> Result<(), MediaError> {
        let ((top, left), sides) = match self.resize {
            Resize::Keep => ((self.height, self.width), true),
            Resize::Stretch { height, width, .. } => {
                ((height, width), PictureSettings::side(height) && PictureSettings::side(width))
            }
            Resize::ShortSide { length, .. } => ((length, length), PictureSettings::side(length)),
        };
        if !sides || !Self::side(self.height) || !Self::side(self.width) {
            return Err(Self::wrong(&self.to_string(), &format!("sides must be from 1 to {SIDE}")));
        }
        if self.height > top || self.width > left {
            return Err(Self::wrong(
                &self.to_string(),
                "the crop is larger than what it is taken from",
            ));
        }
        Ok(())
    }

    /// Rows and columns of a picture of this size; none if it is too small.
    fn axes(&self, height: u32, width: u32) -> Option<(Axis, Axis)> {
        let (high, wide) = match self.resize {
            Resize::Keep => (height.into(), width.into()),
            Resize::Stretch { height, width, .. } => (height.into(), width.into()),
            Resize::ShortSide { length, .. } => {
                let long =
                    |side: u32, short: u32| u64::from(length) * u64::from(side) / u64::from(short);
                if height < width {
                    (length.into(), long(width, height))
                } else {
                    (long(height, width), length.into())
                }
            }
        };
        let axis = |source, target: u64, kept| {
            let from = target.checked_sub(u64::from(kept))? / 2;
            Some(Axis { source, target, keep: from..from + u64::from(kept) })
        };
        Some((axis(height, high, self.height)?, axis(width, wide, self.width)?))
    }
}

impl Display for PictureSettings {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let crop = (self.height, self.width);
        match self.resize {
            Resize::Keep => {}
            Resize::Stretch { height, width, filter } if (height, width) == crop => {
                return write!(f, "stretch {} {height}x{width}", filter.name());
            }
            Resize::Stretch { height, width, filter } => {
                write!(f, "stretch {} {height}x{width} ", filter.name())?
            }
            Resize::ShortSide { length, filter } => write!(f, "short {length} {} ", filter.name())?,
        }
        write!(f, "crop {}x{}", self.height, self.width)
    }
}

impl Filter {
    fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
            Self::Lanczos => "lanczos",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Nearest, Self::Bilinear, Self::Bicubic, Self::Lanczos]
            .into_iter()
            .find(|f| f.name() == name)
    }
}

impl FromStr for PictureSettings {
    type Err = MediaError;

    fn from_str(text: &str) -> Result<Self, MediaError> {
        let settings = parse(text).ok_or_else(|| {
            Self::wrong(
                text,
                "expected a text like \"stretch bicubic 72x72\" or \"short 248 \
                               bicubic crop 224x224\"",
            )
        })?;
        settings.check()?;
        Ok(settings)
    }
}

fn parse(text: &str) -> Option<PictureSettings> {
    let size = |text: &str| {
        let (height, width) = text.split_once('x')?;
        Some((height.parse().ok()?, width.parse().ok()?))
    };
    let words: Vec<&str> = text.split(' ').collect();
    let (resize, (height, width)) = match words[..] {
        ["crop", crop] => (Resize::Keep, size(crop)?),
        ["stretch", filter, to] | ["stretch", filter, to, "crop", _] => {
            let (height, width) = size(to)?;
            let crop = words.get(4).map_or(Some((height, width)), |crop| size(crop))?;
            (Resize::Stretch { height, width, filter: Filter::named(filter)? }, crop)
        }
        ["short", length, filter, "crop", crop] => (
            Resize::ShortSide { length: length.parse().ok()?, filter: Filter::named(filter)? },
            size(crop)?,
        ),
        _ => return None,
    };
    Some(PictureSettings { resize, height, width })
}
