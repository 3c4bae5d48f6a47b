//! 32-bit Arm, the Cortex-M cores: one file an instruction set.
//!
//! What a core has is known when a program is compiled (`build.rs`), so there is one set at the most: a Cortex-M55 has no use for
//! the words of DSP beside its vectors.

#![cfg_attr(not(any(kinglet_dsp, kinglet_mve)), allow(unused_imports, reason = "the smallest cores have no set"))]

use core::iter;
use core::ops::Range;

use crate::activations::Activations;
use crate::cache::Head;
use crate::layout::{Format, Matrix, PANEL};
use crate::product::Row;

#[cfg(kinglet_dsp)]
mod dsp;
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

/// [`product::matmul_with`] for both sets, written for little code: numbers of panels and rows are no constants here.
#[cfg(any(kinglet_dsp, kinglet_mve))]
fn multiply(w: &Matrix<'_>, x: &Activations<'_>, panels: Range<usize>, out: &mut [f32], stride: usize) {
    use set::PANELS;
    let inner = w.padded_cols();
    let row = |m: usize| Row { codes: &x.codes(m)[..inner], sums: x.sums(m) };
    let table = (w.format() == Format::Int4Codebook).then(|| set::table(&w.levels()));
    let first = row(0);
    let mut sums = [[[0; PANEL]; PANELS]; 2];
    for p in panels.clone().step_by(PANELS) {
        let end = panels.end.min(p + PANELS);
        let (codes, subs) = w.codes_of(p..end);
        let scales = &w.row_scales()[p * PANEL..w.rows().min(end * PANEL)];
        for m in (0..x.rows()).step_by(2) {
            let first = if m == 0 { first } else { row(m) };
            let second = (m + 1 < x.rows()).then(|| row(m + 1));
            let [a, b] = &mut sums;
            let (a, b) = (&mut a[..end - p], &mut b[..end - p]);
            match (w.format(), second) {
                (Format::Int8, None) => set::int8(codes, first.codes, a),
                (Format::Int8, Some(second)) => set::int8_pair(codes, [first.codes, second.codes], [a, b]),
                _ => {
                    for (row, sums) in iter::once((first, a)).chain(second.map(|second| (second, b))) {
                        match &table {
                            None => set::uniform(codes, subs, &row, sums),
                            Some(table) => set::codebook(codes, subs, table, &row, sums),
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

/// What weights are multiplied by, of which the largest is `peak`, to become codes, and codes to become weights.
#[cfg(all(target_abi = "eabihf", any(kinglet_dsp, kinglet_mve)))]
#[inline(always)]
fn units(peak: f32) -> [f32; 2] {
    use crate::scalar::{LEAST, TOP};
    if peak > LEAST { [TOP / peak, peak / TOP] } else { [0.0; 2] }
}

/// Writes sums of panels as [`product::store`] does, as many as there are scales.
#[cfg(all(target_abi = "eabihf", any(kinglet_dsp, kinglet_mve)))]
#[inline(never)]
fn store(sums: &[i32], scales: &[f32], token_scale: f32, out: &mut [f32]) {
    assert!(sums.len() >= scales.len() && out.len() == scales.len());
    let eights = scales.len() / 8;
    if eights > 0 {
        // SAFETY: reads `sums` and `scales` and writes `out`, eight numbers at a time, of which each has `eights`.
        unsafe {
            core::arch::asm!(
                "vmov s16, {token}",
                "2:",
                "vldm {sums}!, {{s0-s7}}",
                "vldm {scales}!, {{s8-s15}}",
                ".irp i, 0, 1, 2, 3, 4, 5, 6, 7",
                "vcvt.f32.s32 s\\i, s\\i",
                ".endr",
                ".irp i, 8, 9, 10, 11, 12, 13, 14, 15",
                "vmul.f32 s\\i, s\\i, s16",
                ".endr",
                "vmul.f32 s0, s0, s8",
                "vmul.f32 s1, s1, s9",
                "vmul.f32 s2, s2, s10",
                "vmul.f32 s3, s3, s11",
                "vmul.f32 s4, s4, s12",
                "vmul.f32 s5, s5, s13",
                "vmul.f32 s6, s6, s14",
                "vmul.f32 s7, s7, s15",
                "vstm {out}!, {{s0-s7}}",
                "subs {eights}, {eights}, #1",
                "bne 2b",
                token = in(reg) token_scale.to_bits(),
                sums = inout(reg) sums.as_ptr() => _,
                scales = inout(reg) scales.as_ptr() => _,
                out = inout(reg) out.as_mut_ptr() => _,
                eights = inout(reg) eights => _,
                out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _, out("s6") _, out("s7") _,
                out("s8") _, out("s9") _, out("s10") _, out("s11") _, out("s12") _, out("s13") _, out("s14") _, out("s15") _,
                out("s16") _,
                options(nostack),
            );
        }
    }
    store_each(&sums[8 * eights..], &scales[8 * eights..], token_scale, &mut out[8 * eights..]);
}

#[cfg(all(not(target_abi = "eabihf"), any(kinglet_dsp, kinglet_mve)))]
use store_each as store;

#[cfg(any(kinglet_dsp, kinglet_mve))]
#[inline(always)]
fn store_each(sums: &[i32], scales: &[f32], token_scale: f32, out: &mut [f32]) {
    for ((out, &sum), &scale) in out.iter_mut().zip(sums).zip(scales) {
        *out = sum as f32 * (scale * token_scale);
    }
}
