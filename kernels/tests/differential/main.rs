//! Every instruction set that this machine has, against the scalar reference, bit for bit; and the
//! reference against plain arithmetic in f64 and i64. Shapes are awkward on purpose, values
//! extreme.
//!
//! Under Miri, which reports undefined behaviour, the shapes are few; on Linux `guarded` runs the
//! operations between inaccessible pages.

#[cfg(panic = "unwind")]
mod absurd;
mod attention;
mod elementwise;
#[cfg(all(target_os = "linux", not(miri)))]
mod guarded;
mod matmul;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
mod registers;
mod sparse;
mod support;

/// With the feature `std` the suite covers what the machine has, and not only what it was compiled
/// for.
#[test]
#[cfg(feature = "std")]
fn sets_are_found() {
    let has = |name| kinglet_kernels::Isa::by_name(name).is_some();
    #[cfg(target_arch = "x86_64")]
    assert_eq!(has("avx2"), std::arch::is_x86_feature_detected!("avx2"));
    #[cfg(target_arch = "aarch64")]
    assert!(has("neon"));
    assert!(has("scalar"));
}
