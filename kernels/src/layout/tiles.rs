//! Sizes of panels, tiles and groups, and where a weight lies in them.

/// Rows in a panel.
pub const PANEL: usize = 16;
/// Consecutive inner values of one row in a tile.
pub const QUAD: usize = 4;
/// Inner values that share a sub-scale in all formats but [`Format::Int8`](super::Format::Int8).
pub const GROUP: usize = 32;
/// Bytes in a tile.
pub const TILE: usize = PANEL * QUAD;
/// Alignment of every plane, and of the memory a matrix is read from.
pub const ALIGN: usize = 64;
/// Bytes of a group's codes in an int4 panel.
pub(crate) const GROUP_BYTES: usize = PANEL * GROUP / 2;
/// Groups that a word of a sparse matrix's index speaks of.
pub(crate) const WORD: usize = u32::BITS as usize;
/// Whether this build has sparse matrices and offsets. Without, no code for them is in the program.
pub(super) const SPARSE: bool = cfg!(feature = "families");
/// Subtracted from a nibble of [`Format::Int4`](super::Format::Int4).
pub const INT4_ZERO: i32 = 8;
/// Positions of a cache whose attention is computed together; results of chunks are merged in order.
pub const CHUNK: usize = 64;

/// Words of a panel's index that say which groups are there.
pub(super) const fn index_words(cols: usize) -> usize {
    cols.div_ceil(GROUP).div_ceil(WORD)
}

/// Where inner value `k` of row `r` of a panel lies among the panel's int8 codes.
pub const fn int8_index(r: usize, k: usize) -> usize {
    k / QUAD * TILE + r * QUAD + k % QUAD
}

/// Where inner value `k` of row `r` of a panel lies among the panel's int4 codes: byte, and shift
/// of the nibble.
pub const fn int4_index(r: usize, k: usize) -> (usize, u32) {
    let quad = k % GROUP / QUAD;
    let byte = k / GROUP * GROUP_BYTES + quad / 2 * TILE + r * QUAD + k % QUAD;
    (byte, 4 * (quad % 2) as u32)
}
