//! What the files of vector kernels have in common: an instruction set is a token type that can only be made where its
//! instructions exist, with a method for each operation, and a module `on` of functions that are compiled with its features.

/// Defines a token type and its methods, which run the functions of the same names in the module `on`.
macro_rules! token {
    ($(#[$doc:meta])* $token:ident, $detect:ident, [$($feature:tt),*]) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(crate) struct $token(());

        impl $token {
            /// The token, where the instructions exist.
            pub(crate) fn new() -> Option<Self> {
                #[cfg(feature = "std")]
                let present = true $(&& std::arch::$detect!($feature))*;
                #[cfg(not(feature = "std"))]
                let present = true $(&& cfg!(target_feature = $feature))*;
                present.then_some(Self(()))
            }

            $crate::vector::methods! {
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

/// The functions of `on`: the reference's own text compiled with features on, with the integer products of the token,
/// `M` rows of activations or `P` panels at a time.
macro_rules! operations {
    ($token:ident, $features:tt, $p:literal, $m:literal) => {
        $crate::vector::operations! { $features
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

        #[target_feature(enable = $features)]
        pub(super) fn matmul(w: &Matrix<'_>, x: &Activations<'_>, panels: Range<usize>, out: &mut [f32], stride: usize) {
            product::matmul_with::<$p, $m>($token(()), w, x, panels, out, stride);
        }
    };
    ($features:tt $($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {$(
        #[target_feature(enable = $features)]
        pub(super) fn $name($($arg: $ty),*) $(-> $ret)? {
            scalar::$name($($arg),*)
        }
    )*};
}

/// The products of a token: functions of this module that are compiled with its features.
macro_rules! products {
    ($token:ident) => {
        impl Product for $token {
            #[inline(always)]
            fn int8<const P: usize, const M: usize>(self, codes: [&[u8]; P], rows: [Row<'_>; M]) -> Sums<P, M> {
                // SAFETY: the token exists only where `new` found the features.
                unsafe { int8(codes, rows) }
            }

            #[inline(always)]
            fn int4<const P: usize, const M: usize>(
                self,
                codes: [&[u8]; P],
                subs: [&[[i8; PANEL]]; P],
                levels: Option<&[i8; 16]>,
                rows: [Row<'_>; M],
            ) -> Sums<P, M> {
                match levels {
                    // SAFETY: the token exists only where `new` found the features.
                    None => unsafe { int4(codes, subs, rows) },
                    // SAFETY: as above.
                    Some(levels) => unsafe { codebook(codes, subs, levels, rows) },
                }
            }
        }
    };
}

pub(crate) use {methods, operations, products, token};
