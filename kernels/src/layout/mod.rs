//! How the weights of one matrix lie in memory: the definition for files, kernels and the
//! quantizer.
//!
//! A matrix of `rows` outputs by `cols` inputs is cut into *panels* of [`PANEL`] (16) rows, and a
//! panel into *tiles* of 16 rows by [`QUAD`] (4) inner values: 64 bytes in which 32-bit lane `r`
//! holds four consecutive inner values of row `r`. A byte dot product (`vpdpbusd`, `sdot` by
//! element, AMX, two `smlad`) of a tile with one broadcast quad of activations advances 16 outputs
//! and needs no horizontal sum.
//!
//! ```text
//! Int8            codes: [panel][quad][row 16][4] i8         one tile a quad of inner values
//! Int8, grouped   codes: [panel][group][8][row 16][4] i8     as int8, in whole groups of 32 inner values
//! Int4, codebook  codes: [panel][group][4][row 16][4] u8     byte b of tile v: low nibble = quad 2v,
//!                                                            high nibble = quad 2v + 1 of the group of 32
//! grouped, int4   sub-scales: [panel][group][row 16] i8
//! all             row scales: [panel][row 16] f32, after the other planes
//! codebook        16 i8 in the first 64 bytes, before the codes
//! Int4, offsets   offsets: [panel][group][row 16] i8; offset scales: [panel][row 16] f32, in this
//!                 order after the row scales
//! ```
//!
//! Planes follow one another, each starting at a multiple of [`ALIGN`] from the start of the
//! matrix, as does what follows it. Rows are padded to 16, inner values to 4 (int8) or 32 (all
//! others). Padding weights are never read into a result: padded inner values meet activations that
//! are zero, and padded rows are not stored.
//!
//! The value of an int8 weight is `scale[row] * code`, of any other `scale[row] * sub[row, group] *
//! v` where `v` is the code (grouped int8), `nibble - 8` (uniform) or `codebook[nibble]`.
//! Sub-scales are signed: levels are not symmetric, and a negative sub-scale turns them to the side
//! where a group has its largest value.
//!
//! With offsets ([`Format::Int4Offset`]) it is `scale[row] * sub[row, group] * (nibble - 8) +
//! offset_scale[row] * offset[row, group]`. Such a matrix is the int4 matrix of its first planes
//! and a correction: each kernel reads it as int4, and [`crate::Isa::matmul`] adds the offsets'
//! part.
//!
//! # Sparse matrices
//!
//! A *block* is a group of 32 inner values of a panel's 16 rows. A sparse matrix has no bytes for
//! blocks that are zero:
//!
//! ```text
//! codes       [block][4 (int4) or 8 (int8)][row 16][4]   the blocks that are there, panel after panel
//! sub-scales  [block][row 16] i8
//! row scales  as above
//! index       [panel][1 + ceil(groups / 32)] u32         how many blocks lie before the panel's first; then bit g: group g is there
//! ```
//!
//! Inner values are padded to 32 in int8, too. The number of blocks follows from the bytes, so a
//! matrix is opened without a look at its index. Whatever an index says, a product reads blocks
//! that there are, and no more for a panel than it has groups: a corrupt index gives other
//! numbers, never more work than the dense matrix of the same shape.

mod format;
mod matrix;
mod offsets;
mod sparse;
mod tiles;

pub use format::{Format, LayoutError, Planes};
pub use matrix::Matrix;
pub(crate) use sparse::SparsePanel;
pub(crate) use tiles::GROUP_BYTES;
#[cfg(kinglet_mve)]
pub(crate) use tiles::WORD;
pub use tiles::{ALIGN, CHUNK, GROUP, INT4_ZERO, PANEL, QUAD, TILE, int4_index, int8_index};
