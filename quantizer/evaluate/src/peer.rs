//! Another program that predicts the same text.

/// Something else that predicts the next token, such as another program, to be measured beside the
/// models on the same tokens.
pub trait Peer: Send {
    /// The logits after each token of a sequence, `vocab` numbers for each, one after the other.
    ///
    /// # Errors
    /// What went wrong, with the name of the peer.
    fn logits(&mut self, tokens: &[u32], vocab: usize) -> std::io::Result<Vec<f32>>;
}
