//! The model's bytes, where they are executed: a section of its own in flash or in the board's
//! large memory.

use core::hint::black_box;

/// Weights are read as aligned vectors, so the file starts at a multiple of 64.
#[repr(C, align(64))]
struct Aligned<T>(T);

include!(concat!(env!("OUT_DIR"), "/model.rs"));

/// The whole file.
///
/// It passes through `black_box`, or the compiler would read the header at build time and drop the
/// code this one model does not need: the firmware's size would then be that of a program which can
/// run no other model.
pub fn bytes() -> &'static [u8] {
    black_box(&MODEL.0)
}
