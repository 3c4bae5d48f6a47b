//! What can be wrong with a picture, a recording, or the settings that prepare them.

use std::path::PathBuf;

/// Why a picture or a recording could not be turned into a model's input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A directory, pipe or device where a file was expected.
    #[error("{} is not a regular file: give a picture or a recording", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Longer than any picture or configuration that is read.
    #[error("{} is longer than {limit} bytes, the most that is read: give a smaller file", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The longest accepted.
        limit: u64,
    },
    /// A picture of a kind that is not read.
    #[error("{} is not a PNG, JPEG or BMP picture (it looks like {looks}): convert it to PNG", path.display())]
    NotAPicture {
        /// The file.
        path: PathBuf,
        /// What its first bytes look like.
        looks: String,
    },
    /// A picture that cannot be decoded.
    #[error("the picture {} is damaged or cut short ({problem}): fetch or save it again", path.display())]
    Picture {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        problem: String,
    },
    /// A picture that would need too much memory.
    #[error("the picture {} claims more than the {pixels} pixels, or the {side} on a side, that \
             are read: scale it down first", path.display())]
    PictureTooLarge {
        /// The file.
        path: PathBuf,
        /// The most pixels.
        pixels: u64,
        /// The longest side.
        side: u32,
    },
    /// A picture smaller than what is cut out of it.
    #[error("the picture {} is {width} x {height}, and this model cuts {need_width} x \
             {need_height} out of it unscaled: give a larger one", path.display())]
    PictureTooSmall {
        /// The file.
        path: PathBuf,
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
        /// The least width.
        need_width: u32,
        /// The least height.
        need_height: u32,
    },
    /// A recording that cannot be decoded.
    #[error("{} cannot be read as a WAV recording ({source}): it must be whole, of integer samples \
             of 8 to 32 bits or of 32-bit floats", path.display())]
    Sound {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        source: hound::Error,
    },
    /// A recording at another rate than the model's.
    #[error("{} was recorded at {found} Hz and this model needs {needed} Hz: convert it, for \
             example with `sox IN.wav -r {needed} OUT.wav`", path.display())]
    SoundRate {
        /// The file.
        path: PathBuf,
        /// Its samples in a second.
        found: u32,
        /// The model's.
        needed: u32,
    },
    /// A recording without a single sample.
    #[error("{} holds no samples: record it again", path.display())]
    SoundEmpty {
        /// The file.
        path: PathBuf,
    },
    /// A float sample that is infinite or not a number.
    #[error("sample {at} of {} is not a finite number: record or convert it again", path.display())]
    SoundNotFinite {
        /// The file.
        path: PathBuf,
        /// The sample, counted over all channels.
        at: usize,
    },
    /// Settings that cannot be read, or that make no sense.
    #[error("the settings `{key}` are {value}: {problem}; import the model again")]
    Settings {
        /// The key in the metadata.
        key: &'static str,
        /// The settings, abbreviated.
        value: String,
        /// What is wrong.
        problem: String,
    },
    /// Not the JSON that was expected.
    #[error("{} is not a picture processor's configuration: {source}; fetch it again", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// A setting of a picture processor that is missing, senseless or not supported.
    #[error("`{field}` in {} is {found}: {expected}", path.display())]
    Preprocessor {
        /// The file.
        path: PathBuf,
        /// Name of the setting.
        field: String,
        /// Its value, abbreviated.
        found: String,
        /// What is supported.
        expected: String,
    },
    /// A front end whose tensors are not what the formulas give.
    #[error(
        "tensor `frontend.{tensor}` does not belong to a known front end: {problem}; supported are \
         MFCCs of a Hann window, as in the Keyword Transformer"
    )]
    FrontEnd {
        /// The tensor.
        tensor: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// The beginning of a text that came from elsewhere, for a message.
pub(super) fn abbreviated(text: &str) -> String {
    let mut short: String =
        text.chars().take(80).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}
