//! What an importer reads.

use std::path::Path;

use super::super::fields::Fields;
use super::super::tensors::Tensors;
use super::Modules;

/// What an importer reads.
#[derive(Clone, Copy)]
pub(in super::super) struct Source<'a> {
    pub(in super::super) dir: &'a Path,
    /// config.json.
    pub(in super::super) config: Fields<'a>,
    /// generation_config.json.
    pub(in super::super) generation: Option<Fields<'a>>,
    /// The context asked for.
    pub(in super::super) context: Option<usize>,
    pub(in super::super) tensors: &'a Tensors,
    /// What sentence-transformers puts after the model.
    pub(in super::super) modules: Option<&'a Modules>,
}
