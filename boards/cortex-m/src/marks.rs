//! Marks around measured work, for a QEMU plugin that counts instructions between them.
//!
//! They are moves of a register to itself: one cycle on a board, and compilers emit none.

use core::arch::asm;

/// Counting starts here.
#[inline(always)]
pub fn begin() {
    // SAFETY: changes no register, no flag and no memory. It may touch memory as far as the
    // compiler knows, so that measured work does not move across it.
    unsafe { asm!("mov r10, r10", options(nostack, preserves_flags)) };
}

/// Counting ends here.
#[inline(always)]
pub fn end() {
    // SAFETY: as in `begin`.
    unsafe { asm!("mov r9, r9", options(nostack, preserves_flags)) };
}
