//! Registers that a function must keep: filled with known values before an operation, compared after
//! it (as dav1d's checkasm does). The compiler saves what `asm!` names; what a block changes in
//! silence shows here.

use core::arch::global_asm;
use core::ffi::c_void;

/// Core registers r4 to r11, then, where there is an FPU, s16 to s31.
const STATE: usize = if cfg!(target_abi = "eabihf") { 24 } else { 8 };

// `kinglet_kept(state, work, data)` fills the registers with `state`, calls `work(data)`, and
// writes to `state` what they hold then. The state's address lies on the stack meanwhile.
#[cfg(target_abi = "eabihf")]
global_asm!(
    ".fpu fpv4-sp-d16",
    ".global kinglet_kept",
    ".type kinglet_kept, %function",
    ".thumb_func",
    "kinglet_kept:",
    "push {{r4-r11, lr}}",
    "sub sp, #4",
    "vpush {{d8-d15}}",
    "str r0, [sp, #64]",
    "mov r12, r1",
    "mov r3, r2",
    "ldm r0!, {{r4-r11}}",
    "vldm r0, {{s16-s31}}",
    "mov r0, r3",
    "blx r12",
    "ldr r0, [sp, #64]",
    "stm r0!, {{r4-r11}}",
    "vstm r0, {{s16-s31}}",
    "vpop {{d8-d15}}",
    "add sp, #4",
    "pop {{r4-r11, pc}}",
);

#[cfg(not(target_abi = "eabihf"))]
global_asm!(
    ".global kinglet_kept",
    ".type kinglet_kept, %function",
    ".thumb_func",
    "kinglet_kept:",
    "push {{r4-r7, lr}}",
    "mov r4, r8",
    "mov r5, r9",
    "mov r6, r10",
    "mov r7, r11",
    "push {{r0, r4-r7}}",
    "mov r12, r1",
    "mov r3, r2",
    "adds r0, #16",
    "ldm r0!, {{r4-r7}}",
    "mov r8, r4",
    "mov r9, r5",
    "mov r10, r6",
    "mov r11, r7",
    "subs r0, #32",
    "ldm r0!, {{r4-r7}}",
    "mov r0, r3",
    "blx r12",
    "ldr r0, [sp]",
    "stm r0!, {{r4-r7}}",
    "mov r4, r8",
    "mov r5, r9",
    "mov r6, r10",
    "mov r7, r11",
    "stm r0!, {{r4-r7}}",
    "pop {{r0, r4-r7}}",
    "mov r8, r4",
    "mov r9, r5",
    "mov r10, r6",
    "mov r11, r7",
    "pop {{r4-r7, pc}}",
);

unsafe extern "C" {
    fn kinglet_kept(state: *mut u32, work: extern "C" fn(*mut c_void), data: *mut c_void);
}

/// Calls `F`; it is a function of its own, which keeps of its caller's what it uses itself.
extern "C" fn call<F: FnMut()>(data: *mut c_void) {
    // SAFETY: `kept` hands over a closure of this type that it borrows for the call.
    unsafe { (*data.cast::<F>())() }
}

/// Calls `work`. Whether it kept what a function must keep.
#[must_use]
pub fn kept<F: FnMut()>(mut work: F) -> bool {
    let before: [u32; STATE] =
        core::array::from_fn(|i| 0x3456_789a_u32.rotate_left(i as u32) ^ i as u32);
    let mut after = before;
    // SAFETY: the state has as many words as the assembly reads and writes, and `call` is given
    // the closure that it expects. The assembly gives its own caller back what it must keep.
    unsafe { kinglet_kept(after.as_mut_ptr(), call::<F>, (&raw mut work).cast()) };
    before == after
}
