//! What a checkpoint says about the preparation of its model's input, in the form of a file's
//! metadata.

use serde_json::Value;

use super::{FrontEnd, MediaError, PictureSettings, Preprocessor, SoundSettings, Spectrum};
use kinglet_import::checkpoint::{Checkpoint, CheckpointError};
use kinglet_import::regular::{self, Kind};

/// Why a checkpoint's preparation cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreparedError {
    /// Its settings, or its front end.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// The numbers of its front end.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Pairs for the metadata: how pictures or recordings become what the model is given; none where it
/// reads something else, or nothing says it.
///
/// # Errors
///
/// What is said about it cannot be read or is not supported.
pub fn prepared(checkpoint: &Checkpoint) -> Result<Vec<(String, String)>, PreparedError> {
    let mut pairs = vec![];
    if let Some(path) = checkpoint.preparation() {
        let picture = Preprocessor::read(&path)?.picture;
        pairs.push((PictureSettings::KEY.to_owned(), picture.to_string()));
    }
    if let Some(sound) = front_end(checkpoint)? {
        pairs.push((SoundSettings::KEY.to_owned(), sound.to_string()));
    }
    Ok(pairs)
}

/// The settings of a front end that the checkpoint carries as tensors.
fn front_end(checkpoint: &Checkpoint) -> Result<Option<SoundSettings>, PreparedError> {
    let tensor = |name: &str| match checkpoint.stored(&format!("frontend.{name}")) {
        Some(tensor) => Ok(checkpoint.read(&tensor)?),
        None => Ok::<_, CheckpointError>(vec![]),
    };
    let window = tensor("window")?;
    let config =
        regular::read(&checkpoint.path().join("config.json"), Kind::Settings).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    let number = |key: &str| config[key].as_u64().and_then(|n| u32::try_from(n).ok());
    let (Some(rate), Some(hop), false) = (number("sample_rate"), number("hop"), window.is_empty())
    else {
        return Ok(None);
    };
    let settings = FrontEnd {
        rate,
        // A second, unless it says otherwise.
        samples: number("samples").unwrap_or(rate),
        hop,
        floor: config["log_floor"].as_f64().unwrap_or(1e-12) as f32,
        spectrum: if config["spectrum"] == "power" { Spectrum::Power } else { Spectrum::Magnitude },
        window: &window,
        dft_re: &tensor("dft_re")?,
        dft_im: &tensor("dft_im")?,
        mel: &tensor("mel")?,
        dct: &tensor("dct")?,
        divisors: &tensor("norm_div")?,
    };
    Ok(Some(settings.settings()?))
}
