//! Pictures and recordings: from files to what the first stack of a model is given.
//!
//! ```text
//! PNG, JPEG, BMP --> decode --> upright RGB --> resize, crop --> height x width x 3 bytes      [picture]
//! WAV -----------> samples in -1..1 --> cut or padded --> MFCC --> frames x coefficients      [sound]
//! ```
//!
//! How a model wants its input is part of the model: [`PictureSettings`] and
//! [`SoundSettings`] are written into the file's metadata under [`PictureSettings::KEY`]
//! and [`SoundSettings::KEY`], and read from there. They come from a checkpoint's
//! `preprocessor_config.json` ([`Preprocessor`]) or from the tensors of its front
//! end ([`FrontEnd`]); [`prepared`] finds them.
//!
//! Invariants:
//!
//! - The same file and settings give the same bytes and the same f32 bits on every
//!   host: integer sums, or f64 in one order with `libm`'s functions.
//! - Whatever a file or a text of settings holds, the outcome is the input of the
//!   model or a [`MediaError`]. Memory and work are bounded before they are spent.

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(clippy::missing_errors_doc)]

mod error;
mod file;
mod front_end;
mod picture;
mod prepared;
mod preprocessor;
mod resample;
mod sound;

pub use error::MediaError;
pub use front_end::FrontEnd;
pub use picture::decode;
pub use picture::{PictureSettings, Resize, picture};
pub use prepared::{PreparedError, prepared};
pub use preprocessor::Preprocessor;
pub use resample::Filter;
pub use sound::{SoundSettings, Spectrum, Window, sound};
