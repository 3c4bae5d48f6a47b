//! The C interface of the runtime. `include/kinglet.h` is generated from this crate, and its first
//! comment states what a caller promises.
//!
//! | module | what it holds |
//! |---|---|
//! | `caller` | pointers of the caller become references: all that is `unsafe` |
//! | `status`, `error` | status codes, and errors with the place and the numbers |
//! | `message` | how a call ends, and texts for errors |
//! | `model`, `session`, `tokenizer`, `sampler` | the functions, thin over the Rust ones |
//!
//! A function makes one `caller::Caller`, by which it vouches for its arguments, and the checked
//! conversions of that type do the rest. No panic crosses the border: the runtime has none that a
//! caller or a file can provoke, with an operating system an `extern "C"` function aborts rather
//! than unwinds, and on bare metal a panic executes an undefined instruction.

#![no_std]
#![expect(non_camel_case_types, reason = "the names are those of the C header")]
#![allow(clippy::missing_safety_doc, reason = "the header's first comment states the contract")]

#[cfg(not(target_os = "none"))]
extern crate std;
// Linked for its feature `std`, which detects instruction sets.
#[cfg(not(target_os = "none"))]
use kinglet_kernels as _;

mod caller;
mod error;
mod message;
mod model;
mod sampler;
mod session;
mod status;
mod tokenizer;

pub use message::{kinglet_error, kinglet_error_message, kinglet_status_text};
pub use model::{
    kinglet_golden, kinglet_model, kinglet_model_golden, kinglet_model_info,
    kinglet_model_information, kinglet_model_open, kinglet_model_verify, kinglet_options,
    kinglet_options_of, kinglet_plan, kinglet_plan_make, kinglet_progress, kinglet_values,
};
pub use sampler::{
    kinglet_argmax, kinglet_sampler, kinglet_sampler_open, kinglet_sampler_sample, kinglet_sampling,
};
pub use session::{
    kinglet_session, kinglet_session_begin, kinglet_session_begin_each,
    kinglet_session_begin_source, kinglet_session_check_golden, kinglet_session_encode,
    kinglet_session_feed, kinglet_session_info, kinglet_session_information,
    kinglet_session_logits, kinglet_session_open, kinglet_session_reorder, kinglet_session_resume,
    kinglet_session_rewind, kinglet_source, kinglet_source_kind,
};
pub use status::kinglet_status;
pub use tokenizer::{
    KINGLET_ADD_SPECIAL, KINGLET_MATCH_SPECIAL, KINGLET_NO_TOKEN, kinglet_detokenizer,
    kinglet_detokenizer_finish, kinglet_detokenizer_open, kinglet_detokenizer_push,
    kinglet_max_tokens, kinglet_scratch_words, kinglet_tokenizer, kinglet_tokenizer_added_token,
    kinglet_tokenizer_encode, kinglet_tokenizer_info, kinglet_tokenizer_information,
    kinglet_tokenizer_is_eos, kinglet_tokenizer_open, kinglet_tokenizer_open_target,
};

use core::ffi::c_char;

/// The version of the library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The version of the file format that this library reads.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_format_version() -> u32 {
    kinglet::format::layout::VERSION.into()
}

/// A defect of the library ends in the image's fault handler.
#[cfg(all(target_os = "none", feature = "panic-handler"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    #[cfg(target_arch = "arm")]
    // SAFETY: an undefined instruction faults, and the fault does not return here.
    unsafe {
        core::arch::asm!("udf #0", options(noreturn, nostack))
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a breakpoint instruction traps, and the trap does not return here.
    unsafe {
        core::arch::asm!("brk #1", options(noreturn, nostack))
    }
    #[cfg(not(any(target_arch = "arm", target_arch = "aarch64")))]
    loop {
        core::hint::spin_loop();
    }
}
