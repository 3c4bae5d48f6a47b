//! What the files of vector kernels have in common.
//!
//! An instruction set is a token type that can only be made where its instructions exist, with a
//! method for each operation. Behind it stand a module `on` of functions that are compiled with its
//! features, and its integer products. The sets of an architecture are the variants of its
//! `Vector`.

/// Hands the signatures of all operations to a macro of this module.
macro_rules! with_operations {
    ($callback:ident $extra:tt) => {
        $crate::vector::$callback! { $extra
            matmul(w: &Matrix<'_>, x: &Activations<'_>, panels: Range<usize>, out: &mut [f32], stride: usize);
            quantize(x: &[f32], codes: &mut [i8], sums: &mut [i16]) -> f32;
            rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
            add(x: &mut [f32], y: &[f32]);
            silu_mul(gate: &mut [f32], up: &[f32]);
            rope(x: &mut [f32], cos: &[f32], sin: &[f32]);
            transform(x: &mut [f32]);
            attend(
                over: (&Head<'_>, $crate::Mask<'_>, f32),
                queries: (&mut [f32], usize, usize),
                part: Option<$crate::Part>,
                scratch: &mut $crate::Scratch
            );
            softmax(scores: &[f32; $crate::cache::CHUNK], value_scales: &[f32], to: &mut $crate::scalar::Weights);
            #[cfg(feature = "families")]
            layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]);
            #[cfg(feature = "families")]
            activate(activation: $crate::Activation, x: &mut [f32]);
            #[cfg(feature = "families")]
            mul(x: &mut [f32], y: &[f32]);
        }
    };
}

/// Defines the table of the reference's operations.
macro_rules! reference {
    ([] $($(#[$cfg:meta])? $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {
        struct Reference {
            $($(#[$cfg])? $name: fn($($ty),*) $(-> $ret)?,)*
        }

        static REFERENCE: Reference = Reference { $($(#[$cfg])? $name: $crate::reference::$name,)* };
    };
}

/// Defines the enum `Vector` of an architecture's instruction sets, slowest first.
macro_rules! sets {
    ($($set:ident = $name:literal),*) => {
        /// A vector instruction set of this machine.
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Vector {
            $($set($set),)*
        }

        impl Vector {
            /// Those that this machine has.
            pub(crate) fn available() -> impl Iterator<Item = Self> {
                let found: [Option<Self>; _] = [$($set::new().map(Self::$set)),*];
                found.into_iter().flatten()
            }

            /// A short lower-case name.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$set(_) => $name,)*
                }
            }

            $crate::vector::with_operations! { set_methods [$($set)*] }
        }
    };
}

/// Methods that run those of the variant.
macro_rules! set_methods {
    ($sets:tt $($(#[$cfg:meta])? $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {$(
        $(#[$cfg])?
        #[inline]
        #[allow(unused_variables, reason = "an architecture may have no vector instruction sets")]
        pub(crate) fn $name(self, $($arg: $ty),*) $(-> $ret)? {
            $crate::vector::set_match!(self $sets $name($($arg),*))
        }
    )*};
}

macro_rules! set_match {
    ($self:ident [$($set:ident)*] $name:ident $args:tt) => {
        match $self {
            $(Self::$set(token) => token.$name $args,)*
        }
    };
}

/// Whether this machine has all of some features: asked at run time where `std` can, otherwise what
/// the program is compiled for.
macro_rules! has {
    ($detect:ident, [$($feature:tt),*]) => {{
        #[cfg(feature = "std")]
        let present = true $(&& std::arch::$detect!($feature))*;
        #[cfg(not(feature = "std"))]
        let present = true $(&& cfg!(target_feature = $feature))*;
        present
    }};
}

/// Defines a token type, made where `present` holds, and its methods, which run the functions of
/// the same names in the module `on`.
macro_rules! token {
    ($(#[$doc:meta])* $token:ident, $present:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub(crate) struct $token(());

        impl $token {
            /// The token, where the instructions exist.
            pub(crate) fn new() -> Option<Self> {
                ($present).then_some(Self(()))
            }

            $crate::vector::with_operations! { token_methods [] }
        }
    };
}

/// Methods that run the functions of the same names in `on`.
macro_rules! token_methods {
    ([] $($(#[$cfg:meta])? $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {$(
        $(#[$cfg])?
        #[inline]
        #[cfg_attr(target_arch = "arm", allow(unused_unsafe, reason = "features of a core are no \
                                                                       target features there"))]
        pub(crate) fn $name(self, $($arg: $ty),*) $(-> $ret)? {
            // SAFETY: a token comes from `new`, which found the features, or was made inside a
            // function of `on`, which requires them: either way they are present here, and the
            // functions of `on` need no others.
            unsafe { on::$name($($arg),*) }
        }
    )*};
}

/// The functions of `on`: the reference's own text compiled with features on, with the integer
/// products of the token, at a time `rows` rows of activations (or a function that takes any
/// number), or `panels` panels with one row; `queries` queries of attention, or one. On 32-bit Arm
/// a core's features are those of the whole program, and have no names that `target_feature` knows.
macro_rules! operations {
    ($token:ident, $features:tt, panels: $p:literal, rows: $m:tt, queries: $q:literal) => {
        $crate::vector::operations! { [$features] scalar
            add(x: &mut [f32], y: &[f32]);
            rope(x: &mut [f32], cos: &[f32], sin: &[f32]);
        }

        #[cfg(feature = "families")]
        $crate::vector::operations! { [$features] scalar
            layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]);
            activate(activation: $crate::Activation, x: &mut [f32]);
            mul(x: &mut [f32], y: &[f32]);
        }

        $crate::vector::operations! { [$features] $token
            quantize(x: &[f32], codes: &mut [i8], sums: &mut [i16]) -> f32;
            rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
            silu_mul(gate: &mut [f32], up: &[f32]);
            transform(x: &mut [f32]);
            softmax(scores: &[f32; $crate::cache::CHUNK], value_scales: &[f32], to: &mut $crate::scalar::Weights);
        }

        #[cfg_attr(not(target_arch = "arm"), target_feature(enable = $features))]
        pub(crate) fn attend(
            over: (&Head<'_>, $crate::Mask<'_>, f32),
            queries: (&mut [f32], usize, usize),
            part: Option<$crate::Part>,
            scratch: &mut $crate::Scratch,
        ) {
            use $crate::attention::attend_with;
            attend_with::<$p, $q, { 2 * $q }>($token(()), over, queries, part, scratch);
        }

        #[cfg_attr(not(target_arch = "arm"), target_feature(enable = $features))]
        pub(crate) fn matmul(w: &Matrix<'_>, x: &Activations<'_>, panels: Range<usize>, out: &mut [f32], stride: usize) {
            $crate::vector::matmul_body!($token, $features, $p, $m, w, x, panels, out, stride);
        }
    };
    ([$features:tt] scalar $($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {$(
        #[cfg_attr(not(target_arch = "arm"), target_feature(enable = $features))]
        pub(crate) fn $name($($arg: $ty),*) $(-> $ret)? {
            scalar::$name($($arg),*)
        }
    )*};
    ([$features:tt] $token:ident $($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {$(
        #[cfg_attr(not(target_arch = "arm"), target_feature(enable = $features))]
        pub(crate) fn $name($($arg: $ty),*) $(-> $ret)? {
            Product::$name($token(()), $($arg),*)
        }
    )*};
}

/// Rows of activations a block of so many at a time, or by a function for several rows, or (in
/// brackets) by one for any number and for sparse matrices, too. Those are otherwise a function on
/// their own, kept out of line so that LLVM does not spill the accumulators of the dense ones.
macro_rules! matmul_body {
    ($token:ident, $features:tt, $p:literal, ($all:ident), $w:ident, $x:ident, $($arg:ident),*) => {
        $all($w, $x, $($arg),*)
    };
    ($token:ident, $features:tt, $p:literal, $m:literal, $w:ident, $x:ident, $($arg:ident),*) => {
        $crate::vector::sparse!($token, $features, $m);
        if $w.is_sparse() {
            sparse($w, $x, $($arg),*);
        } else {
            gemm::matmul_with::<$p, $m>($token(()), $w, $x, $($arg),*);
        }
    };
    ($token:ident, $features:tt, $p:literal, $rows:ident, $w:ident, $x:ident, $($arg:ident),*) => {
        $crate::vector::sparse!($token, $features, 4);
        if $w.is_sparse() {
            sparse($w, $x, $($arg),*);
        } else if $x.rows() < 3 {
            gemm::matmul_with::<$p, 1>($token(()), $w, $x, $($arg),*);
        } else {
            $rows($w, $x, $($arg),*);
        }
    };
}

/// A function for sparse matrices, with so many rows of activations at a time.
macro_rules! sparse {
    ($token:ident, $features:tt, $m:literal) => {
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn sparse(
            w: &Matrix<'_>,
            x: &Activations<'_>,
            panels: Range<usize>,
            out: &mut [f32],
            stride: usize,
        ) {
            gemm::matmul_sparse::<$m>($token(()), w, x, panels, out, stride);
        }
    };
}

/// The products of a token, and perhaps its grouped int8, addition and softmax: functions of this
/// module that are compiled with its features.
macro_rules! products {
    ($token:ident $(, grouped: $grouped:ident)? $(, add: $add:ident)? $(, softmax: $softmax:ident)?) => {
        impl Product for $token {
            $(
                #[inline(always)]
                fn int8_grouped<const P: usize, const M: usize>(
                    self,
                    codes: [&[u8]; P],
                    subs: [&[[i8; PANEL]]; P],
                    rows: [Row<'_>; M],
                ) -> Sums<P, M> {
                    // SAFETY: `self` shows that the features of the set are present.
                    unsafe { $grouped(codes, subs, rows) }
                }
            )?

            $(
                #[inline(always)]
                fn add(self, sums: &mut [i32; PANEL], part: &[i32; PANEL]) {
                    // SAFETY: `self` shows that the features of the set are present.
                    unsafe { $add(sums, part) }
                }
            )?

            #[inline(always)]
            fn int8<const P: usize, const M: usize>(self, codes: [&[u8]; P], rows: [Row<'_>; M]) -> Sums<P, M> {
                // SAFETY: `self` shows that the features of the set are present.
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
                    // SAFETY: `self` comes from `new`, which found the features that `int4`
                    // requires, or was made inside a function that requires them.
                    None => unsafe { int4(codes, subs, rows) },
                    // SAFETY: `self` shows that the features of `codebook` are present, which are
                    // those of `int4`.
                    Some(levels) => unsafe { codebook(codes, subs, levels, rows) },
                }
            }
            $(
                #[inline(always)]
                fn softmax(self, scores: &[f32; CHUNK], value_scales: &[f32], to: &mut Weights) {
                    // SAFETY: `self` shows that the features of the set are present, and `softmax`
                    // needs no others.
                    *to = unsafe { $softmax(scores, value_scales) };
                }
            )?
        }
    };
}

pub(crate) use {
    has, matmul_body, operations, products, reference, set_match, set_methods, sets, sparse, token,
    token_methods, with_operations,
};
