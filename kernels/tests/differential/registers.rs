//! Registers that a function must keep, in the manner of dav1d's checkasm: they are filled with
//! known values, an operation is called, and they are compared. So are words around its frame, the
//! control register of floating point and the direction of string instructions.
//!
//! The compiler saves what `asm!` names; what a block changes in silence shows here.

use std::ffi::c_void;

use kinglet_kernels::cache::CacheShape;
use kinglet_kernels::{Activation, ActivationsMut, Format, Isa, Mask, ValueFormat};

use crate::support::*;

/// Words of the state that is compared.
#[cfg(target_arch = "x86_64")]
const STATE: usize = 8 + GUARD;
#[cfg(target_arch = "aarch64")]
const STATE: usize = 21 + GUARD;
/// Words of the caller's frame that the operation must leave alone.
const GUARD: usize = 16;

// `kinglet_kept(state, work, data)` fills registers and guard with `state`, calls `work(data)`, and
// writes to `state` what it finds then.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".globl kinglet_kept",
    "kinglet_kept:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    // 16 words of guard, the state's address, and one that keeps the stack aligned to 16.
    "sub rsp, 152",
    "mov [rsp + 128], rdi",
    "xor ecx, ecx",
    "2:",
    "mov rax, [rdi + 8 * rcx + 64]",
    "mov [rsp + 8 * rcx], rax",
    "inc ecx",
    "cmp ecx, 16",
    "jne 2b",
    "mov rbx, [rdi]",
    "mov rbp, [rdi + 8]",
    "mov r12, [rdi + 16]",
    "mov r13, [rdi + 24]",
    "mov r14, [rdi + 32]",
    "mov r15, [rdi + 40]",
    "mov rax, rsi",
    "mov rdi, rdx",
    "call rax",
    "mov rdi, [rsp + 128]",
    "mov [rdi], rbx",
    "mov [rdi + 8], rbp",
    "mov [rdi + 16], r12",
    "mov [rdi + 24], r13",
    "mov [rdi + 32], r14",
    "mov [rdi + 40], r15",
    "stmxcsr [rdi + 48]",
    "pushfq",
    "pop rax",
    // The direction flag.
    "and eax, 0x400",
    "mov [rdi + 56], rax",
    "cld",
    "xor ecx, ecx",
    "3:",
    "mov rax, [rsp + 8 * rcx]",
    "mov [rdi + 8 * rcx + 64], rax",
    "inc ecx",
    "cmp ecx, 16",
    "jne 3b",
    "add rsp, 152",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".globl kinglet_kept",
    "kinglet_kept:",
    "stp x29, x30, [sp, #-176]!",
    "stp x19, x20, [sp, #16]",
    "stp x21, x22, [sp, #32]",
    "stp x23, x24, [sp, #48]",
    "stp x25, x26, [sp, #64]",
    "stp x27, x28, [sp, #80]",
    "stp d8, d9, [sp, #96]",
    "stp d10, d11, [sp, #112]",
    "stp d12, d13, [sp, #128]",
    "stp d14, d15, [sp, #144]",
    "str x0, [sp, #160]",
    // 16 words of guard.
    "sub sp, sp, #128",
    "mov x9, #0",
    "2:",
    "add x10, x0, x9, lsl #3",
    "ldr x11, [x10, #168]",
    "str x11, [sp, x9, lsl #3]",
    "add x9, x9, #1",
    "cmp x9, #16",
    "b.ne 2b",
    "ldp x19, x20, [x0]",
    "ldp x21, x22, [x0, #16]",
    "ldp x23, x24, [x0, #32]",
    "ldp x25, x26, [x0, #48]",
    "ldp x27, x28, [x0, #64]",
    "ldr x29, [x0, #80]",
    "ldp d8, d9, [x0, #88]",
    "ldp d10, d11, [x0, #104]",
    "ldp d12, d13, [x0, #120]",
    "ldp d14, d15, [x0, #136]",
    "mov x9, x1",
    "mov x0, x2",
    "blr x9",
    "ldr x0, [sp, #288]",
    "stp x19, x20, [x0]",
    "stp x21, x22, [x0, #16]",
    "stp x23, x24, [x0, #32]",
    "stp x25, x26, [x0, #48]",
    "stp x27, x28, [x0, #64]",
    "str x29, [x0, #80]",
    "stp d8, d9, [x0, #88]",
    "stp d10, d11, [x0, #104]",
    "stp d12, d13, [x0, #120]",
    "stp d14, d15, [x0, #136]",
    "mrs x9, fpcr",
    "str x9, [x0, #152]",
    "str xzr, [x0, #160]",
    "mov x9, #0",
    "3:",
    "add x10, x0, x9, lsl #3",
    "ldr x11, [sp, x9, lsl #3]",
    "str x11, [x10, #168]",
    "add x9, x9, #1",
    "cmp x9, #16",
    "b.ne 3b",
    "add sp, sp, #128",
    "ldp x19, x20, [sp, #16]",
    "ldp x21, x22, [sp, #32]",
    "ldp x23, x24, [sp, #48]",
    "ldp x25, x26, [sp, #64]",
    "ldp x27, x28, [sp, #80]",
    "ldp d8, d9, [sp, #96]",
    "ldp d10, d11, [sp, #112]",
    "ldp d12, d13, [sp, #128]",
    "ldp d14, d15, [sp, #144]",
    "ldp x29, x30, [sp], #176",
    "ret",
);

unsafe extern "C" {
    fn kinglet_kept(state: *mut u64, work: extern "C" fn(*mut c_void), data: *mut c_void);
}

/// Calls `F`; it is a function of its own, which keeps of its caller's what it uses itself.
extern "C" fn call<F: FnMut()>(data: *mut c_void) {
    // SAFETY: `kept` hands over a closure of this type that it borrows for the call.
    unsafe { (*data.cast::<F>())() }
}

/// Calls `work`, which must not panic, and asserts that it keeps what a function must keep.
fn kept<F: FnMut()>(mut work: F, what: std::fmt::Arguments<'_>) {
    let before: [u64; STATE] =
        std::array::from_fn(|i| 0x0123_4567_89ab_cdef_u64.rotate_left(i as u32) ^ i as u64);
    let mut after = before;
    // SAFETY: the state has as many words as the assembly reads and writes; `call` is given the
    // closure that it expects.
    unsafe { kinglet_kept(after.as_mut_ptr(), call::<F>, (&raw mut work).cast()) };
    // What is no register that was filled: the control of floating point as the program found it,
    // whose upper half was not written on x86, and a flag that is zero.
    let (control, flag) = if cfg!(target_arch = "x86_64") { (6, 7) } else { (19, 20) };
    let changed = (0..STATE).filter(|&i| i != control && i != flag && before[i] != after[i]);
    assert_eq!(changed.collect::<Vec<_>>(), [0; 0], "{what}: these words changed");
    assert_eq!(after[flag], 0, "{what}: string instructions run backwards");
    let usual = if cfg!(target_arch = "x86_64") { 0x1f80 } else { 0 };
    // Flags of past operations are nobody's business.
    assert_eq!(after[control] as u32 & !0x3f, usual, "{what}: another rounding or flushing");
}

#[test]
fn operations_keep_what_functions_keep() {
    let mut random = Random(5);
    for isa in all_sets() {
        for format in Format::ALL {
            for (rows, cols, tokens) in [(5, 33, 1), (83, 68, 3), (149, 97, 19), (48, 64, 33)] {
                let w = Weights::random(format, rows, cols, &mut random);
                let x = Rows::random(tokens, cols, &mut random);
                let (matrix, view) = (w.matrix(), x.view());
                let mut out = vec![0.0; tokens * rows];
                let panels = 0..matrix.panels();
                kept(
                    || isa.matmul(&matrix, &view, panels.clone(), &mut out, rows),
                    format_args!("{isa:?} {format:?} {rows}x{cols} by {tokens}"),
                );
            }
        }
        for sparse in sparse_formats() {
            let mut dense = Weights::random(sparse, 83, 97, &mut random);
            let w = dense.split_off(|panel, group| (panel + group) % 3 != 1);
            let (x, matrix) = (Rows::random(9, 97, &mut random), w.matrix());
            let (view, mut out) = (x.view(), vec![0.0; 9 * 83]);
            let panels = 0..matrix.panels();
            kept(
                || isa.matmul(&matrix, &view, panels.clone(), &mut out, 83),
                format_args!("{isa:?} sparse {sparse:?}"),
            );
        }
        for values in [ValueFormat::Int8, ValueFormat::Int4] {
            let cache = Cache::random(130, 64, values, &mut random);
            assert_eq!(cache.shape, CacheShape::new(130, 64, values));
            let (mut q, head) = (random.floats(3 * 64), cache.head());
            kept(
                || isa.attend(&head, Mask::causal(130), 0.1, &mut q, 3, 192),
                format_args!("{isa:?} attention, {values:?}"),
            );
        }
        elementwise(isa, &mut random);
    }
}

fn elementwise(isa: Isa, random: &mut Random) {
    for n in [4, 36, 96, 288] {
        let (x, y) = (random.floats(n), random.floats(n));
        let (mut to, mut spare) = (x.clone(), vec![0.0; n]);
        let what = |name: &str| format!("{isa:?} {name} of {n}");
        kept(|| isa.rms_norm(&x, &y, 1e-5, &mut spare), format_args!("{}", what("rms_norm")));
        kept(
            || isa.layer_norm(&x, &y, &y, 1e-5, &mut spare),
            format_args!("{}", what("layer_norm")),
        );
        kept(|| isa.add(&mut to, &y), format_args!("{}", what("add")));
        kept(|| isa.mul(&mut to, &y), format_args!("{}", what("mul")));
        kept(|| isa.silu_mul(&mut to, &y), format_args!("{}", what("silu_mul")));
        kept(|| isa.transform(&mut to), format_args!("{}", what("transform")));
        let (cos, sin) = (&y[..n / 2], &x[..n / 2]);
        kept(|| isa.rope(&mut to, cos, sin), format_args!("{}", what("rope")));
        for activation in Activation::ALL {
            kept(|| isa.activate(activation, &mut to), format_args!("{}", what(activation.name())));
        }
        let mut rows = Rows::garbage(1, n);
        let mut view = ActivationsMut::new(&mut rows.codes, &mut rows.sums, &mut rows.scales, n);
        kept(|| isa.quantize(&x, &mut view, 0), format_args!("{}", what("quantize")));
    }
}

/// The test itself sees a register that is not kept, and a frame that is written to.
#[test]
fn changes_are_seen() {
    let caught = |work: fn()| {
        std::panic::catch_unwind(|| kept(work, format_args!("a function that keeps nothing")))
    };
    assert!(caught(|| ()).is_ok());
    #[cfg(target_arch = "x86_64")]
    assert!(
        caught(|| {
            // SAFETY: none; that r12 changes is what the test is about, and `kept` restores it.
            unsafe { std::arch::asm!("xor r12, r12") }
        })
        .is_err()
    );
    #[cfg(target_arch = "aarch64")]
    assert!(
        caught(|| {
            // SAFETY: none; that x20 changes is what the test is about, and `kept` restores it.
            unsafe { std::arch::asm!("mov x20, #0") }
        })
        .is_err()
    );
}
