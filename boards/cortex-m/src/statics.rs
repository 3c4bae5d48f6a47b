//! The memory of statics, without the arena and the stack.

unsafe extern "C" {
    static __sdata: u32;
    static __edata: u32;
    static __sbss: u32;
    static __ebss: u32;
}

/// Bytes of all statics that are written to.
pub fn bytes() -> usize {
    let data = (&raw const __edata).addr() - (&raw const __sdata).addr();
    let zeros = (&raw const __ebss).addr() - (&raw const __sbss).addr();
    data + zeros
}
