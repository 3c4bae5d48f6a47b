//! Recordings: WAV to the mel frequency cepstral coefficients of a keyword model.
//!
//! Samples are scaled to -1..1 (an integer of `n` bits by `2^(1-n)`; floats
//! beyond are clipped), channels are averaged, and the recording is cut, or filled
//! up with silence, at its end. Then, for each frame of `frame` samples, one every
//! `hop` samples, as long as they are whole:
//!
//! ```text
//! window    x[i] (0.5 - 0.5 cos(2 pi i / frame))
//! spectrum  |sum of x[i] e^(-2 pi j i k / fft)|, or its square      k = 0 .. fft / 2
//! mel       sum over k of weight[m][k] spectrum[k]                   m = 0 .. mel
//! logarithm ln(max(mel, floor))
//! cosines   sqrt(2 / mel) sum over m of log[m] cos(pi c (m + 0.5) / mel)   c = 0 .. coefficients
//! divided   by divisor[c], if there are any
//! ```
//!
//! `weight[m]` is a triangle on the scale `mel(f) = 1127 ln(1 + f / 700)`: of `mel + 2`
//! points at equal distances from `mel(lower)` to `mel(upper)` it rises from point `m`
//! to 1 at `m + 1` and falls to point `m + 2`. The constant part, `k = 0`, is left out.
//! These are `tf.signal`'s `hann_window`, `linear_to_mel_weight_matrix` and
//! `mfccs_from_log_mel_spectrograms`, so coefficient 0 is not scaled down.
//!
//! All sums are f64; the plain transform is fast enough for what a small model hears.

use std::f64::consts::TAU;
use std::fmt::{self, Display, Formatter};
use std::io::BufReader;
use std::path::Path;
use std::str::FromStr;

use hound::{SampleFormat, WavReader};
use serde::{Deserialize, Serialize};

use super::MediaError;
use super::error::abbreviated;
use super::file::open;

/// The most multiplications of the transforms: seconds of work.
const WORK: u64 = 1 << 32;

/// How a model's recordings are prepared. The form in a file's metadata is JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoundSettings {
    /// Samples in a second.
    pub rate: u32,
    /// Samples the model hears.
    pub samples: u32,
    /// Samples in a frame.
    pub frame: u32,
    /// Samples from one frame's beginning to the next.
    pub hop: u32,
    /// How a frame fades in and out.
    pub window: Window,
    /// Length of the Fourier transform: the frame, and zeros after it.
    pub fft: u32,
    /// What is taken of the transform.
    pub spectrum: Spectrum,
    /// Bands on the mel scale.
    pub mel: u32,
    /// Where the first band begins, in Hz.
    pub lower: f32,
    /// Where the last band ends, in Hz.
    pub upper: f32,
    /// The least value whose logarithm is taken.
    pub floor: f32,
    /// Coefficients of the cosine transform.
    pub coefficients: u32,
    /// What each coefficient is divided by; empty for 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub divisors: Vec<f32>,
}

/// How a frame fades in and out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Window {
    /// The periodic Hann window.
    Hann,
}

/// What is taken of the Fourier transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spectrum {
    /// The absolute value.
    Magnitude,
    /// Its square.
    Power,
}

/// The features of the recording at `path`: a row of coefficients for each frame.
///
/// # Errors
///
/// The file cannot be read, is not a WAV recording of a known kind, is damaged within what the
/// model hears, or has another rate than the model's; the settings make no sense.
pub fn sound(path: &Path, settings: &SoundSettings) -> Result<Vec<f32>, MediaError> {
    settings.check()?;
    settings.features(&decode(path, settings)?)
}

/// As many samples as the model hears, or fewer.
fn decode(path: &Path, settings: &SoundSettings) -> Result<Vec<f32>, MediaError> {
    let wrong = |source| MediaError::Sound { path: path.into(), source };
    let mut reader = WavReader::new(BufReader::new(open(path)?)).map_err(wrong)?;
    let spec = reader.spec();
    if spec.sample_rate != settings.rate {
        let (found, needed) = (spec.sample_rate, settings.rate);
        return Err(MediaError::SoundRate { path: path.into(), found, needed });
    }
    let channels = usize::from(spec.channels).max(1);
    let wanted = channels * settings.samples as usize;
    let all: Vec<f32> = match spec.sample_format {
        SampleFormat::Float => reader.samples::<f32>().take(wanted).collect::<Result<_, _>>(),
        SampleFormat::Int => {
            let unit = libm::exp2f(1.0 - f32::from(spec.bits_per_sample));
            reader.samples::<i32>().take(wanted).map(|s| s.map(|s| s as f32 * unit)).collect()
        }
    }
    .map_err(wrong)?;
    if all.is_empty() {
        return Err(MediaError::SoundEmpty { path: path.into() });
    }
    if let Some(at) = all.iter().position(|s| !s.is_finite()) {
        return Err(MediaError::SoundNotFinite { path: path.into(), at });
    }
    let mean =
        |frame: &[f32]| frame.iter().map(|s| s.clamp(-1.0, 1.0)).sum::<f32>() / channels as f32;
    Ok(all.chunks_exact(channels).map(mean).collect())
}

impl SoundSettings {
    /// Where the settings stand in a file's metadata.
    pub const KEY: &'static str = "sound";

    /// Rows of the features; at least one in settings that make sense.
    pub fn frames(&self) -> u32 {
        self.samples.checked_sub(self.frame).map_or(0, |rest| rest / self.hop.max(1) + 1)
    }

    /// The features of samples in -1..1, which are cut or filled up with silence at the end.
    ///
    /// # Errors
    ///
    /// The settings make no sense.
    pub fn features(&self, samples: &[f32]) -> Result<Vec<f32>, MediaError> {
        self.check()?;
        let mut samples: Vec<f64> = samples.iter().map(|&s| s.into()).collect();
        samples.resize(self.samples as usize, 0.0);
        let tables = Tables::new(self);
        let frames = samples.windows(self.frame as usize).step_by(self.hop as usize);
        Ok(frames.flat_map(|frame| tables.coefficients(self, frame)).collect())
    }

    pub(super) fn check(&self) -> Result<(), MediaError> {
        let product = |a: u32, b: u32| u64::from(a) * u64::from(b);
        let problem = if self.samples > 1 << 24 || self.fft > 1 << 14 || self.mel > 1 << 9 {
            "they are out of all proportion"
        } else if self.frame == 0 || self.hop == 0 || self.frames() == 0 {
            "there is not a single frame"
        } else if self.fft < self.frame {
            "the transform is shorter than the frame"
        } else if !(0.0 <= self.lower
            && self.lower < self.upper
            && self.upper <= self.rate as f32 / 2.0)
        {
            "the bands must lie between 0 Hz and half the rate"
        } else if !(self.floor > 0.0 && self.floor.is_finite()) {
            "the floor must be positive"
        } else if self.coefficients == 0 || self.coefficients > self.mel {
            "there must be from one coefficient to one for each band"
        } else if u64::from(self.frames())
            * (product(self.frame, self.fft) + product(self.mel, self.coefficients))
            > WORK
        {
            "they are more work than a small model's features can be"
        } else if !self.divisors.is_empty() && self.divisors.len() != self.coefficients as usize {
            "there must be a divisor for each coefficient, or none"
        } else if !self.divisors.iter().all(|d| d.is_normal()) {
            "divisors must be finite and not 0"
        } else {
            return Ok(());
        };
        Err(Self::wrong(&self.to_string(), problem))
    }

    fn wrong(value: &str, problem: &str) -> MediaError {
        MediaError::Settings { key: Self::KEY, value: abbreviated(value), problem: problem.into() }
    }

    pub(super) fn window(&self) -> Vec<f64> {
        let frame = f64::from(self.frame);
        (0..self.frame).map(|i| 0.5 - 0.5 * libm::cos(TAU * f64::from(i) / frame)).collect()
    }

    /// Cosines and sines of one turn in `fft` steps.
    pub(super) fn turn(&self) -> Vec<(f64, f64)> {
        let angle = |i| TAU * f64::from(i) / f64::from(self.fft);
        (0..self.fft).map(|i| (libm::cos(angle(i)), libm::sin(angle(i)))).collect()
    }

    /// For each band the weights of all `fft / 2 + 1` places of the spectrum.
    pub(super) fn bands(&self) -> Vec<Vec<f64>> {
        let lowest = to_mel(self.lower.into());
        let step = (to_mel(self.upper.into()) - lowest) / f64::from(self.mel + 1);
        let place = |k| (to_mel(self.frequency(k)) - lowest) / step;
        let places: Vec<f64> = (0..=self.fft / 2).map(place).collect();
        let weight = |m: u32, k: usize| {
            let rise = places[k] - f64::from(m);
            if k == 0 { 0.0 } else { rise.min(2.0 - rise).max(0.0) }
        };
        (0..self.mel).map(|m| (0..places.len()).map(|k| weight(m, k)).collect()).collect()
    }

    /// For each coefficient the weights of the bands' logarithms.
    pub(super) fn cosines(&self) -> Vec<Vec<f64>> {
        let n = f64::from(self.mel);
        let angle = |c, m| TAU / 4.0 * f64::from(c) * (2.0 * f64::from(m) + 1.0) / n;
        let row = |c| (0..self.mel).map(|m| (2.0 / n).sqrt() * libm::cos(angle(c, m))).collect();
        (0..self.coefficients).map(row).collect()
    }

    pub(super) fn frequency(&self, k: u32) -> f64 {
        f64::from(k) * f64::from(self.rate) / f64::from(self.fft)
    }
}

pub(super) fn to_mel(frequency: f64) -> f64 {
    1127.0 * libm::log(1.0 + frequency / 700.0)
}

pub(super) fn from_mel(mel: f64) -> f64 {
    700.0 * (libm::exp(mel / 1127.0) - 1.0)
}

/// What is the same for all frames.
struct Tables {
    window: Vec<f64>,
    turn: Vec<(f64, f64)>,
    /// Where the weights of a band that are not 0 begin, and these.
    bands: Vec<(usize, Vec<f64>)>,
    cosines: Vec<Vec<f64>>,
}

impl Tables {
    fn new(settings: &SoundSettings) -> Self {
        let part = |weights: Vec<f64>| {
            let from = weights.iter().position(|&w| w > 0.0).unwrap_or(0);
            let to = weights.iter().rposition(|&w| w > 0.0).map_or(0, |last| last + 1);
            (from, weights[from..to].to_vec())
        };
        let bands = settings.bands().into_iter().map(part).collect();
        Self {
            window: settings.window(),
            turn: settings.turn(),
            bands,
            cosines: settings.cosines(),
        }
    }

    fn coefficients(&self, settings: &SoundSettings, frame: &[f64]) -> Vec<f32> {
        let shaped: Vec<f64> = frame.iter().zip(&self.window).map(|(x, w)| x * w).collect();
        let end = self.bands.iter().map(|(from, weights)| from + weights.len()).max().unwrap_or(0);
        let spectrum: Vec<f64> = (0..end).map(|k| self.power(&shaped, k)).collect();
        let spectrum: Vec<f64> = match settings.spectrum {
            Spectrum::Magnitude => spectrum.iter().map(|p| p.sqrt()).collect(),
            Spectrum::Power => spectrum,
        };
        let logarithm = |(from, weights): &(usize, Vec<f64>)| {
            libm::log(dot(weights, &spectrum[*from..]).max(settings.floor.into()))
        };
        let logarithms: Vec<f64> = self.bands.iter().map(logarithm).collect();
        let divisor = |c| settings.divisors.get(c).map_or(1.0, |&d| f64::from(d));
        self.cosines
            .iter()
            .enumerate()
            .map(|(c, row)| (dot(row, &logarithms) / divisor(c)) as f32)
            .collect()
    }

    fn power(&self, shaped: &[f64], k: usize) -> f64 {
        let (mut re, mut im, mut at) = (0.0, 0.0, 0);
        for x in shaped {
            let (cos, sin) = self.turn[at];
            re += x * cos;
            im += x * sin;
            at += k;
            if at >= self.turn.len() {
                at -= self.turn.len();
            }
        }
        re * re + im * im
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Display for SoundSettings {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for SoundSettings {
    type Err = MediaError;

    fn from_str(text: &str) -> Result<Self, MediaError> {
        let settings: Self =
            serde_json::from_str(text).map_err(|e| Self::wrong(text, &e.to_string()))?;
        settings.check()?;
        Ok(settings)
    }
}
