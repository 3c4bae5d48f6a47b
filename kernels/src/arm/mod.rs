//! 32-bit Arm, the Cortex-M cores: one file an instruction set.
//!
//! What a core has is known when a program is compiled (`build.rs`), so there is one set at the
//! most: a Cortex-M55 has no use for the words of DSP beside its vectors.

#![cfg_attr(
    not(any(kinglet_dsp, kinglet_mve)),
    allow(unused_imports, reason = "the smallest cores have no set")
)]

use core::iter;
use core::ops::Range;

use crate::activations::{Activations, Row};
use crate::cache::Head;
use crate::gemm::store_each;
use crate::layout::{Format, Matrix, PANEL};

#[cfg(kinglet_dsp)]
mod dsp;
#[cfg(all(target_abi = "eabihf", any(kinglet_dsp, kinglet_mve)))]
mod float;
#[cfg(kinglet_mve)]
mod helium;

#[cfg(kinglet_dsp)]
use dsp::{self as set, Dsp};
#[cfg(kinglet_mve)]
use helium::{self as set, Helium};

#[cfg(kinglet_dsp)]
crate::vector::sets!(Dsp = "dsp");
#[cfg(kinglet_mve)]
crate::vector::sets!(Helium = "helium");
#[cfg(not(any(kinglet_dsp, kinglet_mve)))]
crate::vector::sets!();

/// [`matmul_with`](crate::gemm::matmul_with) for both sets, written for little code: numbers of
/// panels and rows are no constants here.
#[cfg(any(kinglet_dsp, kinglet_mve))]
fn multiply(
    w: &Matrix<'_>,
    x: &Activations<'_>,
    panels: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    use set::PANELS;
    // All others come in groups.
    let tiles = w.format() == Format::Int8 && !w.is_sparse();
    let inner = if tiles { w.padded_cols() } else { x.stride() };
    let row = |m: usize| Row { codes: &x.codes(m)[..inner], sums: x.sums(m) };
    let table = (w.format() == Format::Int4Codebook).then(|| set::table(&w.levels()));
    let first = row(0);
    let mut sums = [[[0; PANEL]; PANELS]; 2];
    for p in panels.clone().step_by(PANELS) {
        let end = panels.end.min(p + PANELS);
        let codes = w.codes_of(p..end);
        let scales = &w.row_scales()[p * PANEL..w.rows().min(end * PANEL)];
        for m in (0..x.rows()).step_by(2) {
            let first = if m == 0 { first } else { row(m) };
            let second = (m + 1 < x.rows()).then(|| row(m + 1));
            let [a, b] = &mut sums;
            let (a, b) = (&mut a[..end - p], &mut b[..end - p]);
            match second {
                Some(second) if tiles => {
                    set::int8_pair(codes, [first.codes, second.codes], [a, b]);
                }
                _ => {
                    for (row, sums) in
                        iter::once((first, a)).chain(second.map(|second| (second, b)))
                    {
                        if tiles {
                            set::int8(codes, row.codes, sums);
                        } else {
                            set::groups(w, p, table.as_ref(), &row, sums);
                        }
                    }
                }
            }
            for (m, sums) in (m..x.rows()).zip(&sums) {
                let out = &mut out[m * stride + (p - panels.start) * PANEL..][..scales.len()];
                store(sums.as_flattened(), scales, x.scale(m), out);
            }
        }
    }
}

#[cfg(all(target_abi = "eabihf", any(kinglet_dsp, kinglet_mve)))]
pub(crate) use float::sqrt;

/// Writes sums of panels as [`gemm::store`](crate::gemm::store) does, as many as there are
/// scales.
#[cfg(all(target_abi = "eabihf", any(kinglet_dsp, kinglet_mve)))]
#[inline(never)]
fn store(sums: &[i32], scales: &[f32], token_scale: f32, out: &mut [f32]) {
    let done = float::products::<true>(bytemuck::cast_slice(sums), scales, token_scale, out);
    store_each(&sums[done..], &scales[done..], token_scale, &mut out[done..]);
}

#[cfg(all(not(target_abi = "eabihf"), any(kinglet_dsp, kinglet_mve)))]
use store_each as store;
