//! The caller's pointers become references, after everything that can be checked was checked.
//!
//! An object of the interface is a C struct that the caller allocates, large enough for a tag and
//! the Rust value. The tag is a constant of the type combined with the object's address. It is
//! written last when an object is opened, and compared before the value is touched, so an object
//! that was zeroed, never opened successfully, copied, or opened as another type is an error.

use core::marker::PhantomData;
use core::mem::{MaybeUninit, offset_of};
use core::ops::Range;
use core::{ptr, slice};

use crate::error::Error;

/// A C struct that holds a Rust value.
pub(crate) trait Object {
    /// The value. What it borrows, the caller keeps alive.
    type Value: 'static;
    /// For messages.
    const NAME: &'static str;
    /// Differs from type to type.
    const TAG: u64;
}

/// How the value lies in an object. What follows it in the C struct is unused.
#[repr(C)]
struct Slot<T> {
    tag: u64,
    value: MaybeUninit<T>,
}

/// A type of which any bytes are a value.
///
/// # Safety
/// It is so: integers, floating-point numbers, raw pointers, and `repr(C)` structs of them.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: any byte is one.
unsafe impl Plain for u8 {}
// SAFETY: any bytes are one.
unsafe impl Plain for u32 {}
// SAFETY: any bytes are one.
unsafe impl Plain for usize {}
// SAFETY: any bytes are one.
unsafe impl Plain for f32 {}

/// The proof that the caller's contract may be relied on, which is all that the methods' own
/// unsafe code cannot check.
#[derive(Clone, Copy)]
pub(crate) struct Caller(());

/// Where a result goes. The pointer is not null and aligned.
pub(crate) struct Out<T>(*mut T);

/// An object that is about to be opened. The pointer is not null and aligned.
pub(crate) struct Place<O: Object>(*mut Slot<O::Value>, PhantomData<O>);

impl Caller {
    /// # Safety
    /// Each pointer that is given to a method of the result is an argument of the C function that
    /// calls this one, or a field of a struct behind such an argument, and the contract in the
    /// header's first comment holds for it until the C function returns:
    ///
    /// - null, or valid for reads of the number of elements that the argument's documentation
    ///   states; and for writes if the pointer is not `const`;
    /// - what a function reads is initialised. Buffers for results and arenas need not be: a program
    ///   in C that is compiled apart hands over memory that holds some bytes, of which this library
    ///   reads none before it wrote them;
    /// - nobody else writes what is behind it, or reads it if it is not `const`;
    /// - an object was zeroed, or written to by this library alone since it was opened;
    /// - what [`Self::lasting`] and [`Self::lasting_mut`] are given stays so for as long as any
    ///   object made from it is used.
    pub(crate) unsafe fn trust() -> Self {
        Self(())
    }

    /// The slot of an object, if the pointer can be one. Casting is sound because the struct is
    /// no smaller and no less aligned than the slot, which is a matter of compile time.
    fn slot<O: Object>(self, object: *const O) -> Result<*mut Slot<O::Value>, Error> {
        const {
            assert!(offset_of!(Slot<O::Value>, tag) == 0);
            assert!(size_of::<Slot<O::Value>>() <= size_of::<O>(), "enlarge the C struct");
            assert!(align_of::<Slot<O::Value>>() <= align_of::<O>(), "align the C struct");
        }
        usable(object, O::NAME)?;
        Ok(object.cast_mut().cast())
    }

    /// An object that will be opened. Until it is, it is closed.
    pub(crate) fn place<O: Object>(self, object: *mut O) -> Result<Place<O>, Error> {
        let slot = self.slot(object)?;
        // SAFETY: the tag is the slot's first field. `slot` is aligned and not null, which was
        // checked; the contract makes it valid for writes.
        unsafe { slot.cast::<u64>().write(0) };
        Ok(Place(slot, PhantomData))
    }

    /// The value of an object that was opened.
    fn value<O: Object>(self, object: *const O) -> Result<*mut O::Value, Error> {
        let slot = self.slot(object)?;
        // SAFETY: the tag is the slot's first field. `slot` is aligned and not null; the contract
        // makes it valid for reads, and its bytes initialised.
        let tag = unsafe { slot.cast::<u64>().read() };
        if tag != tag_of::<O>(slot) {
            return Err(Error::NotOpen(O::NAME));
        }
        Ok(slot.wrapping_byte_add(offset_of!(Slot<O::Value>, value)).cast())
    }

    /// The value of an object, to read.
    pub(crate) fn shared<'c, O: Object>(self, object: *const O) -> Result<&'c O::Value, Error> {
        let value = self.value(object)?;
        // SAFETY: the tag shows that `Place::put` wrote a value here, and the contract that
        // nobody wrote since but this library, and nobody writes during the call, which the
        // reference does not outlive.
        Ok(unsafe { &*value })
    }

    /// The value of an object, to change.
    pub(crate) fn exclusive<'c, O: Object>(
        self,
        object: *mut O,
    ) -> Result<&'c mut O::Value, Error> {
        let value = self.value(object)?;
        // SAFETY: as in `shared`; since the pointer is not `const`, nobody else reads either, and
        // no function asks for the same argument twice.
        Ok(unsafe { &mut *value })
    }

    /// `len` elements, to read.
    pub(crate) fn slice<'c, T: Plain>(
        self,
        start: *const T,
        len: usize,
        what: &'static str,
    ) -> Result<&'c [T], Error> {
        if len == 0 {
            return Ok(&[]);
        }
        extent(start, len, what)?;
        // SAFETY: `start` is not null and aligned, and the bytes do not wrap, as was checked; the
        // contract makes them readable and unchanged during the call. Any bytes are a `T`.
        Ok(unsafe { slice::from_raw_parts(start, len) })
    }

    /// `len` elements, to change.
    pub(crate) fn slice_mut<'c, T: Plain>(
        self,
        start: *mut T,
        len: usize,
        what: &'static str,
    ) -> Result<&'c mut [T], Error> {
        if len == 0 {
            return Ok(&mut []);
        }
        extent(start, len, what)?;
        // SAFETY: as in `slice`, and the contract gives the bytes to this call alone. Functions
        // with several such arguments compare their extents by `apart` before they ask.
        Ok(unsafe { slice::from_raw_parts_mut(start, len) })
    }

    /// The bytes of a model, which outlive everything made from them.
    pub(crate) fn lasting(
        self,
        start: *const u8,
        len: usize,
        what: &'static str,
    ) -> Result<&'static [u8], Error> {
        usable(start, what)?;
        self.slice(start, len, what)
    }

    /// The bytes of an arena, which are the session's until it is used no more.
    pub(crate) fn lasting_mut(
        self,
        start: *mut u8,
        len: usize,
        what: &'static str,
    ) -> Result<&'static mut [u8], Error> {
        usable(start, what)?;
        self.slice_mut(start, len, what)
    }

    /// A struct that the caller filled in.
    pub(crate) fn read<T: Plain>(self, from: *const T, what: &'static str) -> Result<T, Error> {
        usable(from, what)?;
        // SAFETY: the pointer is not null and aligned; the contract makes it valid for reads. Any
        // bytes are a `T`.
        Ok(unsafe { from.read() })
    }

    /// Where a result goes.
    pub(crate) fn out<T: Copy>(self, to: *mut T, what: &'static str) -> Result<Out<T>, Error> {
        usable(to, what)?;
        Ok(Out(to))
    }
}

impl<T: Copy> Out<T> {
    /// Writes the result.
    pub(crate) fn set(&self, value: T) {
        // SAFETY: `Caller::out` checked that the pointer is not null and aligned, and the contract
        // makes it valid for writes until the call ends, which this value does not outlive.
        unsafe { self.0.write(value) };
    }
}

impl<O: Object> Place<O> {
    /// Opens the object.
    pub(crate) fn put(self, value: O::Value) {
        let Self(slot, _) = self;
        let tag = tag_of::<O>(slot);
        // SAFETY: `Caller::place` checked that the pointer is not null and aligned, and the
        // contract makes it valid for writes until the call ends.
        unsafe { slot.write(Slot { tag, value: MaybeUninit::new(value) }) };
    }
}

fn tag_of<O: Object>(slot: *const Slot<O::Value>) -> u64 {
    O::TAG ^ slot.addr() as u64
}

/// Whether a pointer is there and aligned.
fn usable<T>(pointer: *const T, what: &'static str) -> Result<(), Error> {
    if pointer.is_null() {
        return Err(Error::Null(what));
    }
    if !pointer.is_aligned() {
        return Err(Error::Unaligned { what, align: align_of::<T>() });
    }
    Ok(())
}

/// The addresses of `len` elements, if there can be as many.
pub(crate) fn extent<T>(
    start: *const T,
    len: usize,
    what: &'static str,
) -> Result<Range<usize>, Error> {
    if len == 0 {
        return Ok(0..0);
    }
    usable(start, what)?;
    let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| isize::try_from(bytes).is_ok());
    let end = bytes.and_then(|bytes| start.addr().checked_add(bytes));
    end.map(|end| start.addr()..end).ok_or(Error::TooLong(what))
}

/// The addresses of an object.
pub(crate) fn extent_of<T>(object: *const T) -> Range<usize> {
    object.addr()..object.addr().saturating_add(size_of::<T>())
}

/// Whether `range` has nothing in common with the others.
pub(crate) fn apart(
    range: &Range<usize>,
    what: &'static str,
    others: &[&Range<usize>],
) -> Result<(), Error> {
    let meets = |other: &&Range<usize>| range.start.max(other.start) < range.end.min(other.end);
    if others.iter().any(meets) { Err(Error::Overlap(what)) } else { Ok(()) }
}

/// The addresses of a slice.
pub(crate) fn range_of<T>(slice: &[T]) -> Range<usize> {
    let range = slice.as_ptr_range();
    range.start.addr()..range.end.addr()
}

/// A pointer for an empty slice, or to its elements.
pub(crate) fn pointer<T>(slice: &[T]) -> *const T {
    if slice.is_empty() { ptr::null() } else { slice.as_ptr() }
}
