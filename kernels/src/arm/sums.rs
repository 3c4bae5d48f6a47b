//! Sums of a panel, as both sets add to them.

use crate::layout::PANEL;

/// `sums += dots * subs`, wrapping.
#[inline(never)]
pub(super) fn add_scaled(sums: &mut [i32; PANEL], dots: &[i32; PANEL], subs: &[i8; PANEL]) {
    for ((sum, dot), &sub) in sums.iter_mut().zip(dots).zip(subs) {
        *sum = sum.wrapping_add(dot.wrapping_mul(i32::from(sub)));
    }
}
