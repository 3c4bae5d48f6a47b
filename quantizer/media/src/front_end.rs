//! The settings after the tensors of a front end.
//!
//! A checkpoint of the Keyword Transformer carries its front end as matrices. They
//! hold nothing but formulas, so the settings are found and the matrices dropped:
//!
//! - the Fourier transform's length from the angle of its first step;
//! - the edges of the mel bands from a line: a place `k` of the spectrum between the
//!   peaks of bands `b` and `b + 1` has weight `w` in band `b`, and lies `b + 2 - w`
//!   steps above the lower edge. Least squares over all such places give edge and step;
//! - everything else from the shapes.
//!
//! Then every number of every tensor must agree with its formula.

use std::f64::consts::TAU;

use super::MediaError;
use super::sound::{SoundSettings, Spectrum, Window, from_mel, to_mel};

/// What a formula and a tensor may differ by: f32 rounding, and no more.
const TOLERANCE: f64 = 1e-4;

/// A front end as a checkpoint states it: its configuration, and its tensors row by row.
#[derive(Clone, Copy, Debug)]
pub struct FrontEnd<'a> {
    /// Samples in a second.
    pub rate: u32,
    /// Samples the model hears.
    pub samples: u32,
    /// Samples from one frame's beginning to the next.
    pub hop: u32,
    /// The least value whose logarithm is taken.
    pub floor: f32,
    /// What is taken of the Fourier transform: the tensors are the same for both.
    pub spectrum: Spectrum,
    /// `frame`
    pub window: &'a [f32],
    /// `places x frame`: cosines. Places above the last band may be missing.
    pub dft_re: &'a [f32],
    /// `places x frame`: sines of either sign.
    pub dft_im: &'a [f32],
    /// `bands x places`
    pub mel: &'a [f32],
    /// `coefficients x bands`
    pub dct: &'a [f32],
    /// `coefficients`
    pub divisors: &'a [f32],
}

impl FrontEnd<'_> {
    /// The settings from which the tensors follow.
    ///
    /// # Errors
    ///
    /// A tensor is not what the formulas give, within 1e-4.
    pub fn settings(&self) -> Result<SoundSettings, MediaError> {
        let shape = |tensor: &'static str, length: usize, of: usize| match length.checked_div(of) {
            Some(rows @ 1..=0x1_0000) if rows * of == length => Ok(rows),
            _ => Err(wrong(tensor, format!("{length} numbers are not rows of {of}"))),
        };
        let frame = shape("window", self.window.len(), 1)?;
        let places = shape("dft_re", self.dft_re.len(), frame)?;
        let bands = shape("mel", self.mel.len(), places)?;
        let coefficients = shape("dct", self.dct.len(), bands)?;
        if self.divisors.len() != coefficients {
            return Err(wrong("norm_div", format!("it must hold {coefficients} numbers")));
        }
        let fft = self.transform(frame)?;
        let (lower, upper) = self.edges(bands, places, fft)?;
        let mut settings = SoundSettings {
            rate: self.rate,
            samples: self.samples,
            frame: frame as u32,
            hop: self.hop,
            window: Window::Hann,
            fft,
            spectrum: self.spectrum,
            mel: bands as u32,
            lower: lower as f32,
            upper: upper as f32,
            floor: self.floor,
            coefficients: coefficients as u32,
            divisors: if self.divisors.iter().all(|&d| d == 1.0) {
                vec![]
            } else {
                self.divisors.to_vec()
            },
        };
        settings.check()?;
        // Edges that were whole numbers become so again.
        let exact = SoundSettings {
            lower: lower.round() as f32,
            upper: upper.round() as f32,
            ..settings.clone()
        };
        if exact.check().is_ok() && self.verify(&exact, places).is_ok() {
            settings = exact;
        }
        self.verify(&settings, places)?;
        Ok(settings)
    }

    fn transform(&self, frame: usize) -> Result<u32, MediaError> {
        let step = |tensor: &[f32]| tensor.get(frame + 1).map_or(0.0, |&x| f64::from(x));
        let turns = TAU / libm::atan2(step(self.dft_im).abs(), step(self.dft_re));
        if !(frame as f64 - 0.5..=f64::from(1 << 14)).contains(&turns) {
            return Err(wrong(
                "dft_re",
                format!("its second row gives no transform of at least {frame}"),
            ));
        }
        Ok(turns.round() as u32)
    }

    /// Lower and upper edge in Hz.
    fn edges(&self, bands: usize, places: usize, fft: u32) -> Result<(f64, f64), MediaError> {
        let hertz = f64::from(self.rate) / f64::from(fft);
        let mut points = vec![];
        for k in 1..places {
            let weight = |b: usize| f64::from(self.mel[b * places + k]);
            let between = |&b: &usize| weight(b) > 0.0 && weight(b + 1) > 0.0;
            if let Some(b) = (0..bands - 1).find(between) {
                points.push((b as f64 + 2.0 - weight(b), to_mel(k as f64 * hertz)));
            }
        }
        let n = points.len() as f64;
        let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / n;
        let (x, y) = (mean(|p| p.0), mean(|p| p.1));
        let spread: f64 = points.iter().map(|p| (p.0 - x) * (p.0 - x)).sum();
        let step = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / spread;
        if !(step.is_finite() && step > 0.0) {
            return Err(wrong("mel", "its rows are not overlapping triangles".into()));
        }
        let lowest = y - step * x;
        Ok((from_mel(lowest).max(0.0), from_mel(lowest + step * (bands + 1) as f64)))
    }

    fn verify(&self, settings: &SoundSettings, places: usize) -> Result<(), MediaError> {
        let (turn, bands) = (settings.turn(), settings.bands());
        let angle = |k: usize, i: usize| turn[k * i % turn.len()];
        let frame = self.window.len();
        let cosines = (0..places).flat_map(|k| (0..frame).map(move |i| angle(k, i).0));
        let sign = if self.dft_im.get(frame + 1).is_some_and(|&x| x < 0.0) { -1.0 } else { 1.0 };
        let sines = (0..places).flat_map(|k| (0..frame).map(move |i| sign * angle(k, i).1));
        agree("window", self.window, frame, settings.window().into_iter())?;
        agree("dft_re", self.dft_re, frame, cosines)?;
        agree("dft_im", self.dft_im, frame, sines)?;
        if bands
            .iter()
            .any(|band| band.len() < places || band[places..].iter().any(|&w| w > TOLERANCE))
        {
            return Err(wrong(
                "mel",
                format!("{places} places of the spectrum do not match its bands"),
            ));
        }
        agree(
            "mel",
            self.mel,
            places,
            bands.iter().flat_map(|band| band[..places].iter().copied()),
        )?;
        agree("dct", self.dct, bands.len(), settings.cosines().into_iter().flatten())
    }
}

fn agree(
    name: &'static str,
    tensor: &[f32],
    row: usize,
    formula: impl Iterator<Item = f64>,
) -> Result<(), MediaError> {
    let mut at = 0;
    for expected in formula {
        let found = tensor.get(at).map_or(f64::NAN, |&x| x.into());
        let difference = (found - expected).abs();
        if difference.is_nan() || difference > TOLERANCE {
            let (row, column) = (at / row, at % row);
            return Err(wrong(
                name,
                format!("[{row}, {column}] is {found}, and the formula gives {expected}"),
            ));
        }
        at += 1;
    }
    if at == tensor.len() { Ok(()) } else { Err(wrong(name, format!("it must hold {at} numbers"))) }
}

fn wrong(tensor: &'static str, problem: String) -> MediaError {
    MediaError::FrontEnd { tensor, problem }
}
