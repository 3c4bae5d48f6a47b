//! The same block of other tensors.

use super::block::{Attention, Block, Norm, Operation, Residual, Rope};
use super::parts::Parts;

/// How tensors of one kind become those of another.
pub trait Convert<T: Parts, U: Parts> {
    /// Why one could not.
    type Error;
    /// A product.
    ///
    /// # Errors
    /// [`Convert::Error`], which is the implementation's.
    fn linear(&mut self, of: &T::Linear) -> Result<U::Linear, Self::Error>;
    /// A vector.
    ///
    /// # Errors
    /// [`Convert::Error`], which is the implementation's.
    fn vector(&mut self, of: &T::Vector) -> Result<U::Vector, Self::Error>;
    /// Frequencies.
    ///
    /// # Errors
    /// [`Convert::Error`], which is the implementation's.
    fn frequencies(&mut self, of: &T::Frequencies) -> Result<U::Frequencies, Self::Error>;
    /// Numbers by distance, of so many heads.
    ///
    /// # Errors
    /// [`Convert::Error`], which is the implementation's.
    fn relative(&mut self, of: &T::Relative) -> Result<U::Relative, Self::Error>;
}

impl<T: Parts> Block<T> {
    /// The same block of other tensors.
    ///
    /// # Errors
    /// The first of `by`.
    pub fn convert<U: Parts, C: Convert<T, U>>(&self, by: &mut C) -> Result<Block<U>, C::Error> {
        let operation = match &self.operation {
            Operation::Attention(a) => {
                let mut norm = |of: &Option<Norm<T::Vector>>| {
                    of.as_ref().map(|norm| norm.convert(|v| by.vector(v))).transpose()
                };
                let (query_norm, key_norm) = (norm(&a.query_norm)?, norm(&a.key_norm)?);
                let rope = a.rope.as_ref().map(|rope| {
                    let frequencies = by.frequencies(&rope.frequencies)?;
                    Ok(Rope { frequencies, magnitude: rope.magnitude })
                });
                let rope = rope.transpose()?;
                Operation::Attention(Attention {
                    heads: a.heads,
                    kv_heads: a.kv_heads,
                    head_dim: a.head_dim,
                    score_scale: a.score_scale,
                    mask: a.mask,
                    query_norm,
                    key_norm,
                    rope,
                    relative: a.relative.as_ref().map(|of| by.relative(of)).transpose()?,
                    head_inputs: a.head_inputs,
                })
            }
            Operation::FeedForward { activation, gated } => {
                Operation::FeedForward { activation: *activation, gated: *gated }
            }
            Operation::Projection => Operation::Projection,
        };
        let residual = match &self.residual {
            Residual::Pre => Residual::Pre,
            Residual::Post(norm) => Residual::Post(norm.convert(|v| by.vector(v))?),
            Residual::Replace => Residual::Replace,
        };
        Ok(Block {
            layer: self.layer,
            norm: self.norm.as_ref().map(|n| n.convert(|v| by.vector(v))).transpose()?,
            residual,
            input: self.input.as_ref().map(|of| by.linear(of)).transpose()?,
            states: self.states.as_ref().map(|of| by.linear(of)).transpose()?,
            operation,
            output: by.linear(&self.output)?,
        })
    }
}
