//! The offsets of [`Format::Int4Offset`].

use super::format::{Format, Planes};
use super::tiles::PANEL;

/// Offsets and their scales, which only [`Format::Int4Offset`] has. A build without them has no
/// room for them in its matrices either.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Offsets<'a> {
    #[cfg(feature = "families")]
    codes: &'a [i8],
    #[cfg(feature = "families")]
    scales: &'a [f32],
    #[cfg(not(feature = "families"))]
    none: core::marker::PhantomData<&'a ()>,
}

/// Offsets of a panel, 16 a group, and their scales.
pub(crate) type PanelOffsets<'a> = (&'a [[i8; PANEL]], &'a [f32; PANEL]);

impl<'a> Offsets<'a> {
    /// Those in the bytes of a matrix.
    #[cfg(feature = "families")]
    pub(super) fn read(
        format: Format,
        planes: &Planes,
        sub_scales: usize,
        bytes: &'a [u8],
    ) -> Self {
        let count = if format.has_offsets() { sub_scales } else { 0 };
        let codes = bytes.get(planes.offsets..planes.offsets + count).unwrap_or_default();
        let scales = bytes.get(planes.offset_scales..planes.end).unwrap_or_default();
        Self { codes: bytemuck::cast_slice(codes), scales: bytemuck::cast_slice(scales) }
    }

    #[cfg(not(feature = "families"))]
    pub(super) fn read(_: Format, _: &Planes, _: usize, _: &'a [u8]) -> Self {
        Self::default()
    }

    /// Those of panel `p` of `panels`, 16 a group, and their scales; nothing where there are none.
    #[cfg(feature = "families")]
    #[inline(always)]
    pub(super) fn panel(&self, p: usize, panels: usize) -> Option<PanelOffsets<'a>> {
        let len = self.codes.len() / panels;
        Some((
            self.codes.get(p * len..(p + 1) * len)?.as_chunks().0,
            self.scales.as_chunks().0.get(p)?,
        ))
    }

    #[cfg(not(feature = "families"))]
    #[inline(always)]
    pub(super) fn panel(&self, _: usize, _: usize) -> Option<PanelOffsets<'a>> {
        None
    }
}
