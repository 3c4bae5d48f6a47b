//! Weights as a file has coded them already, for who takes codes over instead of rounding numbers
//! again.
//!
//! These are the types of GGUF whose grid the runtime has, too: 32 numbers share a scale and
//! perhaps a minimum. What is read here stands for the numbers that [`Checkpoint::read_rows`]
//! gives, but for the rounding of their f32 arithmetic.

use std::ops::Range;

use half::f16;
use serde::{Deserialize, Serialize};

use super::element::Element;
use super::{Checkpoint, CheckpointError, TensorRef};

/// How a file codes weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Coding {
    /// `d * (nibble - 8)`.
    Q4_0,
    /// `d * nibble + m`.
    Q4_1,
    /// `d * code`.
    Q8_0,
}

/// Rows of weights as they are coded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Coded {
    /// Nibbles (0..=15), or bytes.
    pub codes: Vec<i8>,
    /// The scale of each 32.
    pub scales: Vec<f32>,
    /// The minimum of each 32 of [`Coding::Q4_1`], otherwise none.
    pub minima: Vec<f32>,
}

impl Coding {
    fn of(element: Element) -> Option<Self> {
        match element {
            Element::Q4_0 => Some(Self::Q4_0),
            Element::Q4_1 => Some(Self::Q4_1),
            Element::Q8_0 => Some(Self::Q8_0),
            _ => None,
        }
    }

    /// What GGUF calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q8_0 => "Q8_0",
        }
    }
}

impl Coded {
    /// Adds a block of these bytes.
    fn push(&mut self, coding: Coding, block: &[u8]) {
        let (scales, codes) = block.split_at(if coding == Coding::Q4_1 { 4 } else { 2 });
        let mut halves =
            scales.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32());
        self.scales.extend(halves.next());
        self.minima.extend(halves.next());
        match coding {
            Coding::Q8_0 => self.codes.extend(codes.iter().map(|&code| code as i8)),
            Coding::Q4_0 | Coding::Q4_1 => {
                self.codes.extend(codes.iter().map(|byte| (byte & 15) as i8));
                self.codes.extend(codes.iter().map(|byte| (byte >> 4) as i8));
            }
        }
    }
}

impl Checkpoint {
    /// How the file codes a matrix; nothing where the runtime has no such grid.
    pub fn coding(&self, tensor: &TensorRef) -> Option<Coding> {
        Coding::of(self.tensors.element(tensor)?)
    }

    /// Some rows of a matrix as the file codes them, with its factor.
    ///
    /// # Errors
    ///
    /// A matrix that is not coded so ([`Self::coding`]), or what the operating system says.
    pub fn coded_rows(
        &self,
        tensor: &TensorRef,
        rows: Range<usize>,
    ) -> Result<Coded, CheckpointError> {
        let (element, bytes) = self.tensors.read_blocks(tensor, rows)?;
        let coding = Coding::of(element).ok_or_else(|| super::tensors::unknown(tensor))?;
        let mut coded = Coded::default();
        bytes.chunks_exact(element.bytes()).for_each(|block| coded.push(coding, block));
        for scale in coded.scales.iter_mut().chain(&mut coded.minima) {
            *scale *= tensor.factor;
        }
        Ok(coded)
    }
}
