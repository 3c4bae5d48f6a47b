//! Families other than Llama's, each in a module of its own.
//!
//! | module | models |
//! |---|---|
//! | `bert` | BERT and Megatron-BERT |
//! | `sentence` | the modules of sentence-transformers around them |
//! | `gpt2` | GPT-2, with or without cross attention |
//! | `t5` | T5 and T5 1.1 |
//! | `bart` | Marian, BART and mBART |
//! | `opennmt` | the original Transformer, as OpenNMT trains it |
//! | `vit` | the Vision Transformer |
//! | `kwt` | the Keyword Transformer |
//! | `vision_text` | a Vision Transformer that GPT-2 describes |
//!
//! Each reads settings with the defaults of its configuration class, refuses those that
//! change the computation beyond what blocks can say, looks all tensors up and refuses
//! others.

mod bart;
mod bert;
mod gpt2;
mod kwt;
mod opennmt;
mod parts;
mod sentence;
mod source;
mod t5;
mod vision_text;
mod vit;

use serde_json::Value;

use super::family::FAMILIES;
use super::fields::Fields;
use super::{Architecture, CheckpointError};

pub(super) use sentence::Modules;
pub(super) use source::Source;
pub(super) use vit::PREPROCESSOR;

type Import = fn(Source<'_>) -> Result<Architecture, CheckpointError>;

/// A kind of model.
pub(super) struct Kind {
    /// The one entry of `architectures`; none for those that are known by their `model_type` alone.
    architecture: Option<&'static str>,
    /// `model_type`.
    name: &'static str,
    import: Import,
    /// Whether modules may follow it.
    modules: bool,
}

const fn kind(architecture: &'static str, name: &'static str, import: Import) -> Kind {
    Kind { architecture: Some(architecture), name, import, modules: false }
}

const KINDS: &[Kind] = &[
    Kind { modules: true, ..kind("BertModel", "bert", bert::bert) },
    Kind { modules: true, ..kind("BertForMaskedLM", "bert", bert::bert) },
    kind("BertForSequenceClassification", "bert", bert::bert_classifier),
    Kind { modules: true, ..kind("MegatronBertModel", "megatron-bert", bert::megatron) },
    kind("GPT2LMHeadModel", "gpt2", gpt2::import),
    kind("T5ForConditionalGeneration", "t5", t5::import),
    kind("MarianMTModel", "marian", bart::marian),
    kind("BartForConditionalGeneration", "bart", bart::bart),
    kind("MBartForConditionalGeneration", "mbart", bart::mbart),
    kind("ViTModel", "vit", vit::model),
    kind("ViTForImageClassification", "vit", vit::classifier),
    kind("VisionEncoderDecoderModel", "vision-encoder-decoder", vision_text::import),
    Kind {
        architecture: None,
        name: "opennmt_transformer",
        import: opennmt::import,
        modules: false,
    },
    Kind { architecture: None, name: "kwt", import: kwt::import, modules: false },
];

/// The kind of a model, if it is one of these.
pub(super) fn kind_of(config: Fields<'_>) -> Result<Option<&'static Kind>, CheckpointError> {
    let name = config.get("model_type").and_then(Value::as_str);
    let architecture =
        match config.get("architectures").and_then(Value::as_array).map(Vec::as_slice) {
            Some([Value::String(architecture)]) => Some(architecture.as_str()),
            // What is wrong with it is said with Llama's.
            Some(_) => return Ok(None),
            None => None,
        };
    let found = KINDS.iter().find(|kind| match (kind.architecture, architecture) {
        (Some(known), Some(architecture)) => known == architecture,
        (None, None) => Some(kind.name) == name,
        _ => false,
    });
    match found.zip(name) {
        Some((kind, name)) if name != kind.name => {
            let expected = format!("{:?}, as architectures says", kind.name);
            Err(config.bad("model_type", &expected))
        }
        _ => Ok(found),
    }
}

/// All architectures that can be imported, for messages.
pub(super) fn supported() -> String {
    let llamas = FAMILIES.iter().map(|family| family.architecture);
    let others = KINDS.iter().filter_map(|kind| kind.architecture);
    format!("supported are {}", llamas.chain(others).collect::<Vec<_>>().join(", "))
}

impl Kind {
    /// Describes the model.
    pub(super) fn import(&self, source: Source<'_>) -> Result<Architecture, CheckpointError> {
        if source.modules.is_some() && !self.modules {
            let supported = "modules of sentence-transformers are supported after BertModel, \
                             BertForMaskedLM and \
                             MegatronBertModel; remove modules.json to import the model alone";
            return Err(source.config.unsupported("architectures", supported));
        }
        (self.import)(source)
    }
}
