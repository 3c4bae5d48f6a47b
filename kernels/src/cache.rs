//! How keys and values lie in the cache: tiles, the same as weights, so that the kernels for
//! weights read them.
//!
//! For one key/value head, keys are a matrix with a row a position and an inner value a dimension;
//! values are cut at every [`CHUNK`] positions into matrices with a row a dimension and an inner
//! value a position:
//!
//! ```text
//! keys           [position / 16][dimension / 4][position % 16][dimension % 4] i8
//! values, int8   [position / 64][dimension / 16][position % 64 / 4][dimension % 16][position % 4] i8
//! values, int4   [position / 64][dimension / 16][position % 64 / 8][dimension % 16][position % 4] u8: the low nibble is of the
//!                first four of eight positions, the high one of the others; a nibble is the code + 8
//! scales         keys [position], values int8 [position], int4 [dimension / 32][position]: the upper halves of f32
//! ```
//!
//! Positions are padded to 16; the last chunk of values is as long as the padded context leaves it.
//! Dimensions of keys are padded to 4, of values not at all: the last panel has as many rows as
//! there are dimensions, and is widened when it is read. Bytes of positions not yet written are
//! never read into a result: scores beyond the length are dropped, and their weights are zero.
//!
//! A scale is rounded up to the 8 bits of precision that half of an f32 has, and codes are rounded
//! with what is stored. So a scale of 16 bits costs no more than a step that is up to 1/128 larger.

use core::ops::Range;

pub use crate::layout::CHUNK;
use crate::layout::{GROUP, PANEL, QUAD, TILE};
use crate::scalar::{largest, quantize_with};

/// The widest head.
pub const MAX_HEAD_DIM: usize = 256;

/// How values are coded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ValueFormat {
    /// Eight bits, a scale a position.
    #[default]
    Int8,
    /// Four bits, a scale for each 32 dimensions of a position.
    #[cfg(feature = "families")]
    Int4,
}

impl ValueFormat {
    /// Whether a value has four bits.
    #[inline(always)]
    pub(crate) const fn is_int4(self) -> bool {
        #[cfg(feature = "families")]
        return matches!(self, Self::Int4);
        #[cfg(not(feature = "families"))]
        false
    }
}

/// Sizes of the cache of one key/value head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Positions, a multiple of 16.
    pub positions: usize,
    /// Dimensions of a head, 1 to [`MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// How values are coded.
    pub values: ValueFormat,
}

impl CacheShape {
    /// The cache of a head of `head_dim` dimensions that can hold `context` positions, or as many
    /// as a machine can count.
    pub const fn new(context: usize, head_dim: usize, values: ValueFormat) -> Self {
        let positions = match context.checked_next_multiple_of(PANEL) {
            Some(positions) => positions,
            None => usize::MAX / PANEL * PANEL,
        };
        Self { positions, head_dim, values }
    }

    /// Bytes of a key.
    pub const fn key_stride(&self) -> usize {
        self.head_dim.next_multiple_of(QUAD)
    }

    /// Bytes of the values of two positions.
    const fn value_pair(&self) -> usize {
        if self.values.is_int4() { self.head_dim } else { 2 * self.head_dim }
    }

    /// Bytes of keys and values; more than any memory has where they exceed the address space, or a
    /// head is wider than [`MAX_HEAD_DIM`].
    pub const fn codes(&self) -> usize {
        if self.head_dim > MAX_HEAD_DIM {
            return usize::MAX;
        }
        let keys = self.positions.saturating_mul(self.key_stride());
        keys.saturating_add((self.positions / 2).saturating_mul(self.value_pair()))
    }

    /// Number of scales; more than any memory has where they exceed the address space.
    pub const fn scales(&self) -> usize {
        self.positions.saturating_mul(1 + self.value_groups())
    }

    /// Scales of a position's values.
    pub(crate) const fn value_groups(&self) -> usize {
        if self.values.is_int4() { self.head_dim.div_ceil(GROUP) } else { 1 }
    }

    /// Panels of values that share a scale.
    pub(crate) fn panels(&self, group: usize) -> Range<usize> {
        let all = self.head_dim.div_ceil(PANEL);
        if self.values.is_int4() {
            group * (GROUP / PANEL)..all.min((group + 1) * (GROUP / PANEL))
        } else {
            0..all
        }
    }

    /// Panels of values that lie as a product reads them.
    pub(crate) fn whole_panels(&self) -> usize {
        if self.values.is_int4() { 0 } else { self.head_dim / PANEL }
    }

    /// Positions in chunk `chunk`.
    pub(crate) fn chunk_len(&self, chunk: usize) -> usize {
        CHUNK.min(self.positions - chunk * CHUNK)
    }

    /// Where the values of `chunk` in `panel` start, and how many rows the panel has.
    fn values(&self, chunk: usize, panel: usize) -> (usize, usize) {
        let of_chunk = self.positions * self.key_stride() + chunk * CHUNK / 2 * self.value_pair();
        let start = of_chunk + self.panel_bytes(self.chunk_len(chunk), PANEL) * panel;
        (start, PANEL.min(self.head_dim - panel * PANEL))
    }

    /// Bytes of `len` positions of `rows` dimensions of values.
    const fn panel_bytes(&self, len: usize, rows: usize) -> usize {
        if self.values.is_int4() { len / 2 * rows } else { len * rows }
    }
}

/// A scale as the cache holds it: the upper half of an f32, rounded up, finite; weights of
/// attention rely on that.
pub(crate) fn to_half(scale: f32) -> u16 {
    const MOST: u32 = f32::MAX.to_bits() >> 16;
    let up = scale.to_bits().wrapping_add(0xffff) >> 16;
    // NaN, infinities and what would become one.
    if scale < f32::MAX && up < MOST { up as u16 } else { MOST as u16 }
}

/// What a scale of the cache stands for.
#[inline(always)]
pub(crate) fn from_half(scale: u16) -> f32 {
    f32::from_bits(u32::from(scale) << 16)
}

/// Tiles of a panel of values in int8.
pub(crate) type Tiles = [u8; CHUNK * PANEL];

/// The cache of one key/value head, read.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    shape: CacheShape,
    codes: &'a [i8],
    scales: &'a [u16],
}

impl<'a> Head<'a> {
    /// Views memory as a head's cache.
    ///
    /// # Panics
    /// When the lengths are not those of `shape`, or the shape is not one.
    pub fn new(shape: CacheShape, codes: &'a [i8], scales: &'a [u16]) -> Self {
        fit!(shape.positions.is_multiple_of(PANEL) && (1..=MAX_HEAD_DIM).contains(&shape.head_dim));
        fit!(codes.len() == shape.codes() && scales.len() == shape.scales());
        Self { shape, codes, scales }
    }

    /// The sizes.
    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// Tiles of the 16 keys of panel `panel`.
    pub(crate) fn keys(&self, panel: usize) -> &'a [u8] {
        let len = self.shape.key_stride() * PANEL;
        bytemuck::cast_slice(&self.codes[panel * len..][..len])
    }

    /// Scales of the keys of chunk `chunk`; those after the last position stay as they are.
    #[inline(always)]
    pub(crate) fn key_scales(&self, chunk: usize, to: &mut [f32; CHUNK]) {
        self.widened(chunk, 0, to);
    }

    /// Scales of the values of chunk `chunk` in group `group`, as [`Self::key_scales`].
    #[inline(always)]
    pub(crate) fn value_scales(&self, chunk: usize, group: usize, to: &mut [f32; CHUNK]) {
        self.widened(chunk, 1 + group, to);
    }

    #[inline(always)]
    fn widened(&self, chunk: usize, plane: usize, to: &mut [f32; CHUNK]) {
        let len = self.shape.chunk_len(chunk);
        let start = plane * self.shape.positions + chunk * CHUNK;
        let halves = self.scales.get(start..start + len).unwrap_or_default();
        for (scale, &half) in to.iter_mut().zip(halves) {
            *scale = from_half(half);
        }
    }

    /// Tiles of the values of chunk `chunk` in a panel that lies as a product reads it.
    #[inline(always)]
    pub(crate) fn values(&self, chunk: usize, panel: usize) -> &'a [u8] {
        let (start, rows) = self.shape.values(chunk, panel);
        let len = self.shape.panel_bytes(self.shape.chunk_len(chunk), rows);
        bytemuck::cast_slice(self.codes.get(start..start + len).unwrap_or_default())
    }

    /// Makes such tiles of a panel of four bits, or of fewer rows than 16; returns as many as the
    /// chunk has. Rows that the panel lacks mean nothing.
    #[inline(never)]
    pub(crate) fn widen_values<'t>(
        &self,
        chunk: usize,
        panel: usize,
        tiles: &'t mut Tiles,
    ) -> &'t [u8] {
        let from = self.values(chunk, panel);
        let rows = QUAD * self.shape.values(chunk, panel).1;
        let to = tiles.as_chunks_mut::<TILE>().0;
        if self.shape.values.is_int4() {
            for (pair, from) in to.as_chunks_mut::<2>().0.iter_mut().zip(from.chunks_exact(rows)) {
                for (i, &byte) in from.iter().enumerate() {
                    pair[0][i] = (byte & 15).wrapping_sub(8);
                    pair[1][i] = (byte >> 4).wrapping_sub(8);
                }
            }
        } else {
            for (tile, from) in to.iter_mut().zip(from.chunks_exact(rows)) {
                // Words, as a call for so few bytes costs more than the bytes.
                for (to, from) in tile.as_chunks_mut::<QUAD>().0.iter_mut().zip(from.as_chunks().0)
                {
                    *to = *from;
                }
            }
        }
        &tiles[..self.shape.chunk_len(chunk) * PANEL]
    }
}

/// Quantizes and stores key and value of one position.
///
/// # Panics
/// When the lengths are not those of `shape`, or `position` is beyond it.
pub fn store(
    shape: CacheShape,
    codes: &mut [i8],
    scales: &mut [u16],
    position: usize,
    key: &[f32],
    value: &[f32],
) {
    fit!(
        key.len() == shape.head_dim
            && value.len() == shape.head_dim
            && shape.head_dim <= MAX_HEAD_DIM
    );
    fit!(
        position < shape.positions
            && codes.len() == shape.codes()
            && scales.len() == shape.scales()
    );
    let mut row = [0i8; MAX_HEAD_DIM];

    scales[position] = code(key, 127.0, &mut row[..shape.key_stride()]);
    let panel = &mut codes[position / PANEL * PANEL * shape.key_stride()..];
    let quads = panel.as_chunks_mut::<QUAD>().0.iter_mut().skip(position % PANEL).step_by(PANEL);
    for (to, &quad) in quads.zip(row[..shape.key_stride()].as_chunks().0) {
        *to = quad;
    }

    let (group, top) = if shape.values.is_int4() { (GROUP, 7.0) } else { (MAX_HEAD_DIM, 127.0) };
    for (g, (value, row)) in value.chunks(group).zip(row.chunks_mut(group)).enumerate() {
        scales[(1 + g) * shape.positions + position] = code(value, top, &mut row[..value.len()]);
    }
    let (chunk, inner) = (position / CHUNK, position % CHUNK);
    for (panel, row) in row[..shape.head_dim].chunks(PANEL).enumerate() {
        let (start, rows) = shape.values(chunk, panel);
        // A tile of four positions in int8, of eight in int4.
        let (quad, int4) = (inner / QUAD, shape.values.is_int4());
        let tile =
            &mut codes[start + if int4 { quad / 2 } else { quad } * rows * QUAD..][..rows * QUAD];
        let places = tile.as_chunks_mut::<QUAD>().0.iter_mut().map(|quad| &mut quad[inner % QUAD]);
        for (to, &c) in places.zip(row) {
            let nibble = c.wrapping_add(8) as u8;
            *to = match (int4, quad % 2) {
                (false, _) => c,
                (true, 0) => (*to as u8 & 0xf0 | nibble) as i8,
                (true, _) => (*to as u8 & 15 | nibble << 4) as i8,
            };
        }
    }
}

/// Codes numbers up to `top`, zeros after the last; returns the scale.
fn code(x: &[f32], top: f32, to: &mut [i8]) -> u16 {
    let half = to_half(largest(x) / top);
    let scale = from_half(half);
    let inv = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let (codes, padding) = to.split_at_mut(x.len());
    quantize_with(x, inv, top, codes);
    padding.fill(0);
    half
}
