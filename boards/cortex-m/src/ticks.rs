//! Time: SysTick at the core's clock, made 64 bits wide by an interrupt that counts its wraps.
//!
//! SysTick is the one timer every Cortex-M has. Under QEMU its ticks repeat from run to run only
//! with `-icount`.

use core::sync::atomic::{AtomicU32, Ordering};

use cortex_m::interrupt;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m::peripheral::{SCB, SYST};
use cortex_m_rt::exception;

use crate::board::CLOCK_HZ;

/// SysTick counts down from here to 0, and is 24 bits wide.
const RELOAD: u32 = 0x00ff_ffff;
static WRAPS: AtomicU32 = AtomicU32::new(0);

#[exception]
fn SysTick() {
    // No exchange is needed, and ARMv6-M has none: nothing else writes.
    WRAPS.store(WRAPS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// The running timer.
pub struct Ticks(());

impl Ticks {
    /// Starts the timer.
    pub fn start(mut timer: SYST) -> Self {
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload(RELOAD);
        timer.clear_current();
        timer.enable_interrupt();
        timer.enable_counter();
        Self(())
    }

    /// Ticks since the start.
    pub fn now(&self) -> u64 {
        interrupt::free(|_| {
            let mut ticks = since_wrap();
            let mut wraps = u64::from(WRAPS.load(Ordering::Relaxed));
            if SCB::is_pendst_pending() {
                // It wrapped and could not be counted yet, perhaps after it was read.
                ticks = since_wrap();
                wraps += 1;
            }
            wraps * u64::from(RELOAD + 1) + u64::from(ticks)
        })
    }
}

/// Instructions of so many ticks under QEMU's `-icount`, where one takes `2^icount` ns.
pub fn instructions(ticks: u64, icount: usize) -> u64 {
    (ticks * 1_000_000_000 / u64::from(CLOCK_HZ)) >> icount
}

/// Ticks since the last wrap. A timer at 0 is on its way around, and whether that wrap shows
/// already is not certain: the next tick will tell.
fn since_wrap() -> u32 {
    loop {
        match SYST::get_current() {
            0 => {}
            current => return RELOAD - current,
        }
    }
}
