//! x86-64: one file an instruction set. Each token can only be made where its instructions exist.

/// Defines a token type, its detection, and a method for each operation, which runs the function of the same name in
/// the module `on`.
macro_rules! token {
    ($(#[$doc:meta])* $token:ident, [$($feature:tt),*]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(crate) struct $token(());

        impl $token {
            /// The token, where the instructions exist.
            pub(crate) fn new() -> Option<Self> {
                #[cfg(feature = "std")]
                let present = true $(&& std::arch::is_x86_feature_detected!($feature))*;
                #[cfg(not(feature = "std"))]
                let present = true $(&& cfg!(target_feature = $feature))*;
                present.then_some(Self(()))
            }

            $crate::x86::methods! {
                matmul(w: &Matrix<'_>, x: &Activations<'_>, panels: Range<usize>, out: &mut [f32], stride: usize);
                quantize(x: &[f32], codes: &mut [i8], sums: &mut [i16]) -> f32;
                rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
                add(x: &mut [f32], y: &[f32]);
                silu_mul(gate: &mut [f32], up: &[f32]);
                rope(x: &mut [f32], cos: &[f32], sin: &[f32]);
                attend(head: &Head<'_>, len: usize, scale: f32, q: &mut [f32]);
            }
        }
    };
}

/// Methods that run the functions of the same names in `on`.
macro_rules! methods {
    ($($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {$(
        #[inline]
        pub(crate) fn $name(self, $($arg: $ty),*) $(-> $ret)? {
            // SAFETY: the token exists only where `new` found the features, and the functions of `on` need no others.
            unsafe { on::$name($($arg),*) }
        }
    )*};
}

/// Compiles the reference's own text of the f32 operations with features on. Attention takes its integer products
/// from the token.
macro_rules! same_text {
    ($token:ident, $features:tt) => {
        $crate::x86::same_text! { $features
            quantize(x: &[f32], codes: &mut [i8], sums: &mut [i16]) -> f32;
            rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
            add(x: &mut [f32], y: &[f32]);
            silu_mul(gate: &mut [f32], up: &[f32]);
            rope(x: &mut [f32], cos: &[f32], sin: &[f32]);
        }

        #[target_feature(enable = $features)]
        pub(super) fn attend(head: &Head<'_>, len: usize, scale: f32, q: &mut [f32]) {
            scalar::attend_with($token(()), head, len, scale, q);
        }
    };
    ($features:tt $($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {$(
        #[target_feature(enable = $features)]
        pub(super) fn $name($($arg: $ty),*) $(-> $ret)? {
            scalar::$name($($arg),*)
        }
    )*};
}

use {methods, same_text, token};

mod avx2;
mod avx512;

pub(crate) use avx2::Avx2;
pub(crate) use avx512::Avx512;
