//! What can be wrong with a checkpoint.
//!
//! Every message says what was found, where, and what to do about it: the
//! person who reads it has a directory in hand, not this source.

use std::path::PathBuf;

use safetensors::SafeTensorError;

/// Why a checkpoint could not be opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A directory, pipe or device where a file was expected.
    #[error("{} is not a regular file: give the directory of a complete Hugging Face checkpoint, \
             or a GGUF file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A JSON file of absurd length.
    #[error("{} is {bytes} bytes long, more than the {limit} a checkpoint can need: it is not what \
             its name says", path.display())]
    JsonTooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The longest accepted.
        limit: u64,
    },
    /// Not JSON, or not an object.
    #[error("{} is not the JSON it should be: {source}; fetch it again", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// A setting that has no default.
    #[error("`{field}` is missing from {file}: expected {expected}")]
    MissingField {
        /// The file it is read from.
        file: &'static str,
        /// Dotted name of the setting.
        field: String,
        /// What belongs there.
        expected: String,
    },
    /// A setting whose value makes no sense.
    #[error("`{field}` in {file} is {value}: expected {expected}")]
    BadField {
        /// The file it is read from.
        file: &'static str,
        /// Dotted name of the setting.
        field: String,
        /// Its value, abbreviated.
        value: String,
        /// What belongs there.
        expected: String,
    },
    /// A setting that makes sense, but asks for what this importer cannot do.
    #[error("`{field}` in {file} is {value}, which is not supported: {supported}")]
    Unsupported {
        /// The file it is read from.
        file: &'static str,
        /// Dotted name of the setting.
        field: String,
        /// Its value, abbreviated.
        value: String,
        /// What is supported.
        supported: String,
    },
    /// Neither a directory nor a file that is known.
    #[error(
        "{} is neither a Hugging Face directory nor a GGUF file (it does not begin with `GGUF`): \
         give the directory that holds config.json, or a .gguf file", path.display()
    )]
    NotACheckpoint {
        /// The path.
        path: PathBuf,
    },
    /// A GGUF file of another version.
    #[error("{} is GGUF of version {found}, which is not read: {instead}", path.display())]
    GgufVersion {
        /// The file.
        path: PathBuf,
        /// What its header says.
        found: u32,
        /// What is read, and what to do.
        instead: &'static str,
    },
    /// A GGUF file that contradicts itself.
    #[error("{} is wrong at byte {at}: {problem}; fetch it again, or convert the model again", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// Where in the file, about.
        at: u64,
        /// What is wrong there.
        problem: String,
    },
    /// A tensor of numbers that are not read.
    #[error("tensor `{tensor}` in {} is of type {found}: supported are F32, F16, BF16, Q8_0, Q4_0, \
             Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K and IQ4_NL; fetch or make a file of these, the \
             larger the better", path.display())]
    GgufType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
    },
    /// The context asked for is none, or longer than the model allows.
    #[error(
        "a context of {asked} was asked for: it must be from 1 to the model's \
         max_position_embeddings, {limit}"
    )]
    Context {
        /// The context asked for.
        asked: usize,
        /// The longest possible.
        limit: usize,
    },
    /// A context was asked for, and the model has one only.
    #[error(
        "a context of {asked} was asked for, but what this model reads always makes {context} \
         rows: leave the context out"
    )]
    FixedContext {
        /// The context asked for.
        asked: usize,
        /// The only one.
        context: usize,
    },
    /// A table of positions that would be computed, and too large.
    #[error(
        "positions are computed at import, and a table of {rows} rows of {width} numbers is too \
         large: ask for a shorter context"
    )]
    PositionTable {
        /// Its rows.
        rows: usize,
        /// Numbers in a row.
        width: usize,
    },
    /// Rotary settings that overflow together.
    #[error(
        "the rotary settings give no finite frequencies ({settings}): one of them is far out of \
         range"
    )]
    Rotation {
        /// The settings.
        settings: String,
    },
    /// No safetensors in the directory.
    #[error(
        "{} holds neither model.safetensors nor model.safetensors.index.json: \
         convert the weights to safetensors (in transformers: `save_pretrained`) or fetch the \
         missing files",
        dir.display()
    )]
    NoWeights {
        /// The directory.
        dir: PathBuf,
    },
    /// The index has no usable `weight_map`.
    #[error("{}: {problem}; fetch it again", path.display())]
    BadIndex {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The index names a shard that is not there.
    #[error("the index places tensor `{tensor}` in {}, which does not exist: fetch the missing \
             shard", shard.display())]
    MissingShard {
        /// One of the tensors of the shard.
        tensor: String,
        /// The shard.
        shard: PathBuf,
    },
    /// The index places a tensor in a shard that lacks it.
    #[error("the index places tensor `{tensor}` in {}, which has no such tensor: fetch index and \
             shards of one revision", shard.display())]
    NotInShard {
        /// The tensor.
        tensor: String,
        /// The shard.
        shard: PathBuf,
    },
    /// Two files hold a tensor of the same name.
    #[error("tensor `{tensor}` is both in {} and in {}: fetch the shards of one revision", first.display(), second.display())]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// One file that holds it.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The header's length does not fit the file.
    #[error("{} claims a header of {header} bytes in a file of {file}: it is damaged or not \
             safetensors, fetch it again", path.display())]
    HeaderLength {
        /// The file.
        path: PathBuf,
        /// The length the first eight bytes claim.
        header: u64,
        /// The length of the file.
        file: u64,
    },
    /// A header longer than any of a model.
    #[error("{} has a header of {bytes} bytes, and at most {limit} are read: write the checkpoint \
             to several files, with an index", path.display())]
    HeaderTooLong {
        /// The file.
        path: PathBuf,
        /// Bytes of its header.
        bytes: u64,
        /// The longest accepted.
        limit: u64,
    },
    /// The header contradicts itself.
    #[error("the header of {} is wrong: {source}; fetch the file again", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SafeTensorError,
    },
    /// The file is shorter or longer than its header says.
    #[error("{} is {found} bytes long, its header describes {expected}: the download was cut or \
             mixed up, fetch it again", path.display())]
    FileLength {
        /// The file.
        path: PathBuf,
        /// The length that follows from the header.
        expected: u64,
        /// The length of the file.
        found: u64,
    },
    /// A tensor the configuration calls for is not there.
    #[error("tensor `{tensor}` {shape:?} is missing: {hint}")]
    MissingTensor {
        /// The tensor.
        tensor: String,
        /// The shape it should have.
        shape: Vec<usize>,
        /// What may have happened.
        hint: &'static str,
    },
    /// Tensors that the configuration does not account for.
    #[error(
        "{count} tensors belong to nothing that config.json describes ({}): \
         the model computes something else than its configuration says, or the files are of two \
         models",
        list(names, *count)
    )]
    ExtraTensors {
        /// The first of them, in order of name.
        names: Vec<String>,
        /// How many there are.
        count: usize,
    },
    /// A tensor of another shape than the configuration implies.
    #[error(
        "tensor `{tensor}` has shape {found:?}, config.json implies {expected:?}: the files are of \
         two models"
    )]
    WrongShape {
        /// The tensor.
        tensor: String,
        /// The shape that follows from the configuration.
        expected: Vec<usize>,
        /// The shape in the header.
        found: Vec<usize>,
    },
    /// A tensor of numbers that are not read.
    #[error(
        "tensor `{tensor}` holds {found}: supported are F32, F16 and BF16, convert the checkpoint \
         to one of them"
    )]
    WrongDtype {
        /// The tensor.
        tensor: String,
        /// Its element type.
        found: String,
    },
    /// A weight that is not a number.
    #[error(
        "tensor `{tensor}` has {value} at row {row}, column {col}: the checkpoint is damaged, or \
         training diverged"
    )]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// Row of the first such weight.
        row: usize,
        /// Column of the first such weight.
        col: usize,
        /// Its value.
        value: f32,
    },
    /// A tensor of another checkpoint.
    #[error(
        "tensor `{tensor}` is not part of this checkpoint: use the references of its own \
         architecture"
    )]
    UnknownTensor {
        /// The tensor.
        tensor: String,
    },
    /// Tokens to keep that are not.
    #[error("these tokens cannot be kept: {problem}")]
    Tokens {
        /// What is wrong with the list.
        problem: String,
    },
    /// Rows outside of the tensor, or a buffer of the wrong length.
    #[error(
        "rows {start}..{end} of tensor `{tensor}` ({rows} rows of {cols}) do not fit a buffer of \
         {buffer}: ask for rows that exist and lend rows x columns"
    )]
    RowRange {
        /// The tensor.
        tensor: String,
        /// First row asked for.
        start: usize,
        /// One past the last row asked for.
        end: usize,
        /// Rows of the tensor.
        rows: usize,
        /// Columns of the tensor.
        cols: usize,
        /// Length of the buffer.
        buffer: usize,
    },
}

fn list(names: &[String], count: usize) -> String {
    let mut text = names.iter().map(|name| abbreviate(name)).collect::<Vec<_>>().join(", ");
    if names.len() < count {
        text.push_str(", ...");
    }
    text
}

/// At most 120 characters of `text`, so that a hostile file cannot flood a terminal.
pub(super) fn abbreviate(text: &str) -> String {
    const LONGEST: usize = 120;
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}...", text.get(..cut).unwrap_or_default()),
        None => text.to_owned(),
    }
}
