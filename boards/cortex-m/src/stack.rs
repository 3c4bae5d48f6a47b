//! The deepest the stack has been: cortex-m-rt paints it before `main`, and what was used is no
//! longer paint.

use core::ptr;

use cortex_m_rt::STACK_PAINT_VALUE;

unsafe extern "C" {
    static _stack_end: u32;
    static _stack_start: u32;
}

/// Bytes set aside for the stack.
pub fn capacity() -> usize {
    (&raw const _stack_start).addr() - (&raw const _stack_end).addr()
}

/// Most bytes that were ever in use, to a word.
pub fn high_water() -> usize {
    let bottom = &raw const _stack_end;
    let words = capacity() / size_of::<u32>();
    let untouched = (0..words).take_while(|&word| {
        // SAFETY: the linker script makes `words` words from `bottom` RAM, and start-up painted
        // them. The read is volatile because the words belong to the stack, not to any object the
        // compiler knows.
        unsafe { ptr::read_volatile(bottom.wrapping_add(word)) == STACK_PAINT_VALUE }
    });
    capacity() - untouched.count() * size_of::<u32>()
}
