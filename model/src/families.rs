//! What the feature `families` leaves out of a build, in one place.
//!
//! Without it everything but causal decoders with RMS norms and gated silu is refused when a file
//! is opened, so the questions here have one answer, and no code for the others is in the program:
//! firmware for a decoder fits 64 KiB of flash.

use crate::description::{
    Activation, Attention, Block, Input, Inputs, Mask, Norm, NormKind, Operation, Output, Parts,
    Residual, Stack,
};

/// Whether the build has all kinds of layers.
pub const FAMILIES: bool = cfg!(feature = "families");

impl<V> Norm<V> {
    /// Whether it is a layer norm; otherwise an RMS norm.
    #[inline]
    pub fn is_layer(&self) -> bool {
        FAMILIES && self.kind == NormKind::Layer
    }
}

impl<T: Parts> Block<T> {
    /// Whether the branch takes the place of the stream.
    #[inline]
    pub fn replaces(&self) -> bool {
        FAMILIES && matches!(self.residual, Residual::Replace)
    }

    /// The norm of the stream itself.
    #[inline]
    pub fn stream_norm(&self) -> Option<&Norm<T::Vector>> {
        match &self.residual {
            Residual::Post(norm) if FAMILIES => Some(norm),
            _ => None,
        }
    }

    /// Whether it is one product alone.
    #[inline]
    pub fn is_projection(&self) -> bool {
        FAMILIES && matches!(self.operation, Operation::Projection)
    }

    /// Whether it attends to the states of the stack before.
    #[inline]
    pub fn is_cross(&self) -> bool {
        self.attention().is_some_and(|attention| attention.is_cross())
    }

    /// The product of the states of the stack before, in blocks that attend to them.
    #[inline]
    pub fn states_product(&self) -> Option<&T::Linear> {
        self.states.as_ref().filter(|_| FAMILIES)
    }
}

impl<T: Parts> Stack<T> {
    /// The product of features, where the stack reads those.
    #[inline]
    pub fn feature_product(&self) -> Option<&T::Linear> {
        match &self.input {
            Input::Features { linear, .. } if FAMILIES => Some(linear),
            _ => None,
        }
    }

    /// The queries that are its input, where it reads nothing else.
    #[inline]
    pub fn queries(&self) -> Option<&T::Table> {
        match &self.input {
            Input::Queries(queries) if FAMILIES => Some(queries),
            _ => None,
        }
    }

    /// Whether it goes on with the states of the stack before.
    #[inline]
    pub fn reads_states(&self) -> bool {
        FAMILIES && matches!(self.input, Input::States)
    }
}

impl<T: Parts> Output<T> {
    /// The layer before the head, and its activation.
    #[inline]
    pub fn dense_layer(&self) -> Option<&(T::Linear, Activation)> {
        self.dense.as_ref().filter(|_| FAMILIES)
    }
}

impl<T: Parts> Attention<T> {
    /// What queries see.
    #[inline]
    pub fn mask(&self) -> Mask {
        if FAMILIES { self.mask } else { Mask::Causal }
    }

    /// Whether it looks at the states of the stack before.
    #[inline]
    pub fn is_cross(&self) -> bool {
        self.mask() == Mask::Cross
    }
}

impl Inputs {
    /// Planes of a row of activations.
    #[inline]
    pub fn planes(self) -> usize {
        if FAMILIES && self == Self::Planes { 2 } else { 1 }
    }
}
