//! The working memory lent to a session, and the proof that the session kept within it.
//!
//! ```text
//! | guard, 64 B | planned bytes, lent to a session | rest of the capacity | guard, 64 B |
//! | pattern     | pattern, then whatever is written | pattern             | pattern     |
//! ```
//!
//! All of it starts as the pattern and not as zeros, so a session that reads memory before it has
//! written it shows as a changed result. All but the planned bytes must still be the pattern at the
//! end, the word right after the plan too.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use cortex_m::interrupt;

use crate::board::ARENA_BYTES;

/// What unused memory holds: as an f32 a large odd number, as an index far outside of everything.
const PATTERN: u8 = 0xa5;
const GUARD: usize = 64;

#[repr(C, align(64))]
struct Memory(UnsafeCell<[u8; GUARD + ARENA_BYTES + GUARD]>);

// SAFETY: the cell is only reached through `Arena::take`, which succeeds once.
unsafe impl Sync for Memory {}

// Not in .bss: start-up need not write zeros over what is overwritten next.
#[unsafe(link_section = ".uninit.arena")]
static MEMORY: Memory = Memory(UnsafeCell::new([0; GUARD + ARENA_BYTES + GUARD]));
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The board's working memory.
pub struct Arena(&'static mut [u8; GUARD + ARENA_BYTES + GUARD]);

/// Memory outside the plan was written.
#[derive(Clone, Copy, Debug)]
pub struct Overwritten {
    /// Where, counted from the start of the planned bytes.
    pub offset: isize,
}

impl Arena {
    /// The one arena, filled with the pattern; `None` the second time.
    pub fn take() -> Option<Self> {
        // ARMv6-M has no atomic exchange.
        let taken = interrupt::free(|_| {
            let taken = TAKEN.load(Ordering::Relaxed);
            TAKEN.store(true, Ordering::Relaxed);
            taken
        });
        if taken {
            return None;
        }
        let memory = MEMORY.0.get();
        // SAFETY: the pointer is valid for writes of its type; nothing else refers to the cell, as
        // only the first call gets here.
        unsafe { memory.write([PATTERN; GUARD + ARENA_BYTES + GUARD]) };
        // SAFETY: initialised above, aligned, and never handed out again.
        Some(Self(unsafe { &mut *memory }))
    }

    /// The first `planned` bytes, aligned to 64; `None` when the board has fewer.
    pub fn lend(&mut self, planned: usize) -> Option<&mut [u8]> {
        self.0[GUARD..GUARD + ARENA_BYTES].get_mut(..planned)
    }

    /// Fills it with the pattern again.
    pub fn renew(&mut self) {
        self.0.fill(PATTERN);
    }

    /// Fails with the first byte outside of `planned` that is no longer the pattern.
    pub fn check(&self, planned: usize) -> Result<(), Overwritten> {
        let outside = |index: &usize| !(GUARD..GUARD + planned).contains(index);
        match (0..self.0.len()).filter(outside).find(|&index| self.0[index] != PATTERN) {
            Some(index) => Err(Overwritten { offset: index as isize - GUARD as isize }),
            None => Ok(()),
        }
    }

    /// Bytes of the first `planned` up to the last one that was written with anything but the
    /// pattern.
    pub fn used(&self, planned: usize) -> usize {
        self.0[GUARD..GUARD + planned]
            .iter()
            .rposition(|&byte| byte != PATTERN)
            .map_or(0, |last| last + 1)
    }
}
