//! How keys and values lie in the cache: int8 tiles, the same as weights, so that the kernels for weights read them.
//!
//! For one key/value head, keys are a matrix with a row a position and an inner value a dimension; values are cut at every
//! [`CHUNK`] positions into matrices with a row a dimension and an inner value a position:
//!
//! ```text
//! keys    [position / 16][dimension / 4][position % 16][dimension % 4] i8
//! values  [position / 64][dimension / 16][position % 64 / 4][dimension % 16][position % 4] i8
//! scales  keys [position] f32, values [position] f32
//! ```
//!
//! Positions are padded to 16; the last chunk of values is as long as the padded context leaves it. Dimensions are padded to 4
//! (keys) and 16 (values). Bytes of positions not yet written are never read into a result: scores beyond the length are
//! dropped, and their weights are zero.

use crate::activations;
use crate::layout::{GROUP, PANEL, QUAD, TILE};
use crate::scalar::quantize;

/// Positions whose attention is computed together; results of chunks are merged in order.
pub const CHUNK: usize = 64;
/// The widest head.
pub const MAX_HEAD_DIM: usize = 256;

/// Sizes of the cache of one key/value head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Positions, a multiple of 16.
    pub positions: usize,
    /// Dimensions of a head, 1 to [`MAX_HEAD_DIM`].
    pub head_dim: usize,
}

impl CacheShape {
    /// The cache of a head of `head_dim` dimensions that can hold `context` positions.
    pub const fn new(context: usize, head_dim: usize) -> Self {
        Self { positions: context.next_multiple_of(PANEL), head_dim }
    }

    /// Bytes of a key.
    pub const fn key_stride(&self) -> usize {
        self.head_dim.next_multiple_of(QUAD)
    }

    /// Bytes of a value.
    pub const fn value_stride(&self) -> usize {
        self.head_dim.next_multiple_of(PANEL)
    }

    /// Bytes of keys and values.
    pub const fn codes(&self) -> usize {
        self.positions * (self.key_stride() + self.value_stride())
    }

    /// Number of f32 scales.
    pub const fn scales(&self) -> usize {
        2 * self.positions
    }

    /// Positions in chunk `chunk`.
    pub(crate) fn chunk_len(&self, chunk: usize) -> usize {
        CHUNK.min(self.positions - chunk * CHUNK)
    }
}

/// The cache of one key/value head, read.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    shape: CacheShape,
    codes: &'a [i8],
    scales: &'a [f32],
}

impl<'a> Head<'a> {
    /// Views memory as a head's cache.
    ///
    /// # Panics
    /// When the lengths are not those of `shape`, or the shape is not one.
    pub fn new(shape: CacheShape, codes: &'a [i8], scales: &'a [f32]) -> Self {
        assert!(shape.positions.is_multiple_of(PANEL) && (1..=MAX_HEAD_DIM).contains(&shape.head_dim));
        assert!(codes.len() == shape.codes() && scales.len() == shape.scales());
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

    pub(crate) fn key_scales(&self) -> &'a [f32] {
        &self.scales[..self.shape.positions]
    }

    pub(crate) fn value_scales(&self) -> &'a [f32] {
        &self.scales[self.shape.positions..]
    }

    /// Tiles of 16 dimensions of the values of chunk `chunk`.
    pub(crate) fn values(&self, chunk: usize, panel: usize) -> &'a [u8] {
        let len = self.shape.chunk_len(chunk) * PANEL;
        bytemuck::cast_slice(&self.codes[value_chunk(&self.shape, chunk) + panel * len..][..len])
    }
}

fn value_chunk(shape: &CacheShape, chunk: usize) -> usize {
    shape.positions * shape.key_stride() + chunk * CHUNK * shape.value_stride()
}

/// Scales in the cache are finite, whatever a model computes: weights of attention rely on it.
fn finite(scale: f32) -> f32 {
    if scale < f32::MAX { scale } else { f32::MAX }
}

/// Quantizes and stores key and value of one position; each gets one scale.
///
/// # Panics
/// When the lengths are not those of `shape`, or `position` is beyond it.
pub fn store(shape: CacheShape, codes: &mut [i8], scales: &mut [f32], position: usize, key: &[f32], value: &[f32]) {
    assert!(position < shape.positions && codes.len() == shape.codes() && scales.len() == shape.scales());
    assert!(key.len() == shape.head_dim && value.len() == shape.head_dim && shape.head_dim <= MAX_HEAD_DIM);
    let mut row = [0i8; MAX_HEAD_DIM];
    let mut sums = [0i16; MAX_HEAD_DIM / GROUP];
    let row = &mut row[..activations::stride(shape.head_dim)];

    scales[position] = finite(quantize(key, row, &mut sums));
    let panel = &mut codes[position / PANEL * PANEL * shape.key_stride()..];
    let quads = panel.as_chunks_mut::<QUAD>().0.iter_mut().skip(position % PANEL).step_by(PANEL);
    for (to, &quad) in quads.zip(row[..shape.key_stride()].as_chunks().0) {
        *to = quad;
    }

    scales[shape.positions + position] = finite(quantize(value, row, &mut sums));
    let (chunk, inner) = (position / CHUNK, position % CHUNK);
    let len = shape.chunk_len(chunk);
    let values = &mut codes[value_chunk(&shape, chunk)..];
    for (panel, rows) in row[..shape.head_dim].chunks(PANEL).enumerate() {
        let tile = &mut values[panel * len * PANEL + inner / QUAD * TILE..][..TILE];
        for (r, &c) in rows.iter().enumerate() {
            tile[r * QUAD + inner % QUAD] = c;
        }
    }
}
