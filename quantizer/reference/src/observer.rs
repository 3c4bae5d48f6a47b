//! Looking on while a reference runs.

use kinglet_model::Site;

/// The input of one or several products, for some tokens.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// The block it happens in.
    pub block: usize,
    /// The products.
    pub site: Site,
    /// One row of `cols` numbers for each token, sequences one after the other.
    pub activations: &'a [f32],
    /// Inputs of the products.
    pub cols: usize,
}

/// Someone who looks on, told in a fixed order from one thread.
pub trait Observer {
    /// Sees the input of some products before they are computed.
    fn observe(&mut self, observation: &Observation<'_>);
}

/// No one.
impl Observer for () {
    fn observe(&mut self, _: &Observation<'_>) {}
}

impl<F: FnMut(&Observation<'_>)> Observer for F {
    fn observe(&mut self, observation: &Observation<'_>) {
        self(observation);
    }
}
