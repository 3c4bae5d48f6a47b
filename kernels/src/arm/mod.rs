//! 32-bit Arm, the Cortex-M cores: one file an instruction set.
//!
//! What a core has is known when a program is compiled (`build.rs`), so there is one set at the most: a Cortex-M55 has no use for
//! the words of DSP beside its vectors.

#![cfg_attr(not(any(kinglet_dsp, kinglet_mve)), allow(unused_imports, reason = "the smallest cores have no set"))]

use core::mem::MaybeUninit;
use core::ops::Range;

use crate::activations::Activations;
use crate::cache::{CHUNK, Head};
use crate::layout::{Format, GROUP, Matrix, PANEL};
use crate::product::{self, Row};
use crate::scalar::Weights;

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
    for p in panels.clone().step_by(PANELS) {
        let count = PANELS.min(panels.end - p);
        let number = |i: usize| p + i.min(count - 1);
        let codes: [_; PANELS] = core::array::from_fn(|i| w.panel_codes(number(i)));
        let subs: [_; PANELS] = core::array::from_fn(|i| w.panel_sub_scales(number(i)));
        let (codes, subs) = (&codes[..count], &subs[..count]);
        for m in (0..x.rows()).step_by(2) {
            let together = 2.min(x.rows() - m);
            let mut sums = [[0; PANEL]; 2 * PANELS];
            if w.format() == Format::Int8 {
                match together {
                    1 => set::int8(codes, row(m).codes, &mut sums, 1),
                    _ => set::int8_pair(codes, [row(m).codes, row(m + 1).codes], &mut sums, 2),
                }
            } else {
                for i in 0..together {
                    let (row, sums) = (row(m + i), &mut sums[i..]);
                    match &table {
                        None => set::uniform(codes, subs, &row, sums, together),
                        Some(table) => set::codebook(codes, subs, table, &row, sums, together),
                    }
                }
            }
            for (i, sums) in sums.chunks(together).take(count).enumerate() {
                let width = PANEL.min(w.rows() - (p + i) * PANEL);
                for (j, sums) in sums.iter().enumerate() {
                    let out = &mut out[(m + j) * stride + (p + i - panels.start) * PANEL..][..width];
                    store(sums, w.panel_row_scales(p + i), x.scale(m + j), out);
                }
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

/// The result of a softmax, whose planes are written in place: clearing and copying them would take a tenth of its time.
///
/// # Safety
/// `write` must initialize what it gets a pointer to.
#[cfg(all(target_abi = "eabihf", any(kinglet_dsp, kinglet_mve)))]
#[inline(always)]
unsafe fn weights([max, sum, unit]: [f32; 3], write: impl FnOnce(*mut [i8; 2 * CHUNK])) -> Weights {
    let mut result = MaybeUninit::<Weights>::uninit();
    let to = result.as_mut_ptr();
    // SAFETY: `to` is valid for writes, and so are its fields; together they are all of it, as `write` keeps its promise.
    unsafe {
        write((&raw mut (*to).planes).cast());
        (&raw mut (*to).max).write(max);
        (&raw mut (*to).sum).write(sum);
        (&raw mut (*to).unit).write(unit);
        (&raw mut (*to).sums).write([[0; CHUNK / GROUP]; 2]);
        result.assume_init()
    }
}

/// [`product::store`] with loads and stores of eight numbers.
#[cfg(all(target_abi = "eabihf", any(kinglet_dsp, kinglet_mve)))]
#[inline(never)]
fn store(sums: &[i32; PANEL], row_scales: &[f32; PANEL], token_scale: f32, out: &mut [f32]) {
    let Ok(out) = <&mut [f32; PANEL]>::try_from(&mut *out) else {
        return product::store_cut(sums, row_scales, token_scale, out);
    };
    // SAFETY: reads `sums` and `row_scales` and writes `out`, 16 numbers each.
    unsafe {
        core::arch::asm!(
            "vmov s16, {token}",
            ".rept 2",
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
            ".endr",
            token = in(reg) token_scale.to_bits(),
            sums = inout(reg) sums.as_ptr() => _,
            scales = inout(reg) row_scales.as_ptr() => _,
            out = inout(reg) out.as_mut_ptr() => _,
            out("s0") _, out("s1") _, out("s2") _, out("s3") _, out("s4") _, out("s5") _, out("s6") _, out("s7") _,
            out("s8") _, out("s9") _, out("s10") _, out("s11") _, out("s12") _, out("s13") _, out("s14") _, out("s15") _,
            out("s16") _,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(all(not(target_abi = "eabihf"), any(kinglet_dsp, kinglet_mve)))]
use product::store;
