//! Laying out rounded rows as `kinglet_kernels::layout` defines it. A matrix is produced panel by panel, in the order of the
//! file: codes as they come, sub-scales and row scales kept until the end.

use kinglet::Format;
use kinglet_kernels::layout::{ALIGN, GROUP, PANEL, Planes, QUAD, int4_index, int8_index};

use super::round::{Levels, Row};
use super::rounded::RoundedLinear;
use crate::file::WriteError;

/// Lays out a rounded matrix.
pub(super) fn write(
    of: &RoundedLinear,
    put: &mut dyn FnMut(&[u8]) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    let (rows, cols) = (of.rows.len(), of.cols);
    let too_large = || WriteError::TooLarge { what: format!("a product ({rows} x {cols})") };
    let mut packer = Packer::new(of.format, rows, cols).ok_or_else(too_large)?;
    put(&packer.start(&of.levels))?;
    for panel in of.rows.chunks(PANEL) {
        let codes = packer.codes(panel);
        put(&codes)?;
        packer.scales(panel, codes.len());
    }
    put(&packer.end())
}

/// A matrix in the making.
pub(super) struct Packer {
    format: Format,
    planes: Planes,
    inner: usize,
    sub_scales: Vec<u8>,
    row_scales: Vec<u8>,
    written: usize,
}

impl Packer {
    /// A `rows` x `cols` matrix; `None` where the size overflows.
    pub(super) fn new(format: Format, rows: usize, cols: usize) -> Option<Self> {
        let planes = format.planes(rows, cols)?;
        let inner = cols.next_multiple_of(format.inner());
        Some(Self { format, planes, inner, sub_scales: vec![], row_scales: vec![], written: 0 })
    }

    /// The first bytes.
    pub(super) fn start(&mut self, levels: &Levels) -> Vec<u8> {
        match self.format {
            Format::Int4Codebook => {
                let mut bytes: Vec<u8> = levels.values.iter().map(|&v| v as u8).collect();
                bytes.resize(ALIGN, 0);
                self.written = bytes.len();
                bytes
            }
            Format::Int8 | Format::Int4 => vec![],
        }
    }

    /// The codes of the next panel, from up to 16 rows.
    pub(super) fn codes(&self, rows: &[Row]) -> Vec<u8> {
        let mut bytes = match self.format {
            Format::Int8 => vec![0; PANEL * self.inner],
            // Padding meets activations of zero; nibble 0 is as good as any.
            Format::Int4 | Format::Int4Codebook => vec![0; PANEL * self.inner / 2],
        };
        for (r, row) in rows.iter().enumerate() {
            for (k, &code) in row.codes.iter().enumerate() {
                match self.format {
                    Format::Int8 => bytes[int8_index(r, k)] = code as u8,
                    Format::Int4 | Format::Int4Codebook => {
                        let (byte, shift) = int4_index(r, k);
                        bytes[byte] |= (code as u8 & 15) << shift;
                    }
                }
            }
        }
        debug_assert!(bytes.len().is_multiple_of(PANEL * QUAD));
        bytes
    }

    /// Notes the scales of the next panel; `codes` are the bytes written for it.
    pub(super) fn scales(&mut self, rows: &[Row], codes: usize) {
        self.written += codes;
        if self.format != Format::Int8 {
            for group in 0..self.inner / GROUP {
                let sub = |r: usize| rows.get(r).map_or(0, |row| row.sub_scales[group]);
                self.sub_scales.extend((0..PANEL).map(|r| sub(r) as u8));
            }
        }
        let scale = |r: usize| rows.get(r).map_or(0.0, |row| row.scale);
        self.row_scales.extend((0..PANEL).flat_map(|r| scale(r).to_le_bytes()));
    }

    /// What follows the last panel's codes.
    pub(super) fn end(self) -> Vec<u8> {
        let mut bytes = vec![0; self.planes.end - self.written];
        let mut put = |start: usize, plane: &[u8]| bytes[start - self.written..][..plane.len()].copy_from_slice(plane);
        put(self.planes.sub_scales, &self.sub_scales);
        put(self.planes.row_scales, &self.row_scales);
        bytes
    }
}
