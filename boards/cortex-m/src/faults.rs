//! What happens when something goes wrong: a line that says what, and an exit code that is not
//! zero.

use core::arch::{asm, naked_asm};
use core::hint::black_box;
use core::panic::PanicInfo;

use cortex_m_rt::{ExceptionFrame, exception};

use crate::host::{Exit, exit};
use crate::say;

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    say!("{info}");
    exit(Exit::Panic)
}

/// Every fault ends here, as the configurable ones are not enabled.
///
/// The cause may be a full stack, and then calling anything would fault again and lock the core up.
/// So a stack with little room left is abandoned for a fresh one first; the old frame stays where
/// it was.
#[unsafe(naked)]
#[unsafe(export_name = "HardFault")]
#[unsafe(link_section = ".HardFault.user")]
unsafe extern "C" fn hard_fault() -> ! {
    naked_asm!(
        "mrs r0, msp",
        "ldr r1, =_stack_end",
        "ldr r2, ={room}",
        "add r2, r1",
        "cmp r0, r2",
        "bhs 0f",
        "ldr r3, =_stack_start",
        "msr msp, r3",
        "0: ldr r2, ={report}",
        "bx r2",
        room = const 2048,
        report = sym report,
    )
}

/// `stack` is the stack pointer at the fault, and where the core stored its registers if that was
/// memory; `end` is where the stack ends.
extern "C" fn report(stack: *const ExceptionFrame, end: *const ExceptionFrame) -> ! {
    let status = status();
    if stack < end {
        say!("hard fault: stack overflow (status {status:#010x})");
    } else {
        // SAFETY: the core stored the frame here on entry, `stack` lies within the stack, and the
        // frame was not overwritten: the stack in use is below it, or is a fresh one that ends far
        // above it.
        let frame = unsafe { &*stack };
        say!(
            "hard fault at {:#010x}, called from {:#010x} (status {status:#010x})",
            frame.pc(),
            frame.lr()
        );
    }
    exit(Exit::Fault)
}

/// Which fault it was, as the core says it.
#[cfg(not(armv6m))]
fn status() -> u32 {
    // SAFETY: the address is the system control block of every Cortex-M with faults to tell apart;
    // reading this register changes nothing.
    unsafe { (*cortex_m::peripheral::SCB::PTR).cfsr.read() }
}

/// ARMv6-M has but one fault.
#[cfg(armv6m)]
fn status() -> u32 {
    0
}

/// Does something wrong, by name, so that a test can see it reported; nothing when it knows no such
/// wrong.
pub fn provoke(what: &str) {
    match what {
        "panic" => panic!("as asked"),
        // SAFETY: an undefined instruction does nothing but fault, and the fault does not return.
        "fault" => unsafe { asm!("udf #0", options(noreturn)) },
        "stack" => {
            say!("{}", deep(u32::MAX));
        }
        _ => {}
    }
}

/// Uses all of the stack.
#[inline(never)]
fn deep(levels: u32) -> u32 {
    let room = black_box([levels; 64]);
    if levels == 0 { 0 } else { deep(levels - 1) ^ room[0] }
}

/// Vectors of the chip's own interrupts. None is ever enabled, so one entry does, where cortex-m-rt
/// would spend a KB of flash.
#[unsafe(link_section = ".vector_table.interrupts")]
#[unsafe(no_mangle)]
static __INTERRUPTS: [unsafe extern "C" fn() -> !; 1] = [hard_fault];

#[exception]
unsafe fn DefaultHandler(number: i16) -> ! {
    // No other i16 is printed: one fewer of the functions that print numbers.
    say!("unexpected exception {}", isize::from(number));
    exit(Exit::Fault)
}
