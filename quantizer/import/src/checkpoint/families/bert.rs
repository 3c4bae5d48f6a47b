//! BERT, whose norms follow its branches, and Megatron-BERT, whose norms precede them.
//!
//! A model without a head gives the mean of its states unless modules of
//! sentence-transformers say something else; its pooler is trained for another task and left out.

use super::super::fields::{Fields, MAX_SIZE};
use super::super::settings::{self, MAX_LAYERS};
use super::super::{
    Activation, Architecture, Branch, CheckpointError, Product, end_width, special_tokens,
};
use super::super::{Input, Mask, Output, Pooling, Stack};
use super::parts::{Chain, Parts, attention, plain};
use super::source::Source;

/// Settings that change the computation.
const MUST_BE_OFF: &[(&str, &str)] = &[
    ("is_decoder", "encoders are supported"),
    ("add_cross_attention", "encoders without cross attention are supported"),
    ("is_encoder_decoder", "encoders are supported"),
];

/// A model with or without the head that fills gaps, which is left out.
pub(super) fn bert(source: Source<'_>) -> Result<Architecture, CheckpointError> {
    Bert::read(source, "bert", Chain::behind)?.pooled(source)
}

/// A classifier of whole texts.
pub(super) fn bert_classifier(source: Source<'_>) -> Result<Architecture, CheckpointError> {
    Bert::read(source, "bert", Chain::behind)?.classifier(source)
}

/// A model whose norms precede the branches.
pub(super) fn megatron(source: Source<'_>) -> Result<Architecture, CheckpointError> {
    Bert::read(source, "megatron-bert", |_| Chain::before())?.pooled(source)
}

/// The stack, and what reads on.
struct Bert<'a> {
    family: &'static str,
    parts: Parts<'a>,
    prefix: &'static str,
    stack: Stack,
    vocab: usize,
}

/// How tensors of a layer are called: `attention_norm` and `feed_forward_norm` are the only ones
/// that differ.
struct Names {
    input_norm: Option<&'static str>,
    attention_norm: &'static str,
    feed_forward_norm: &'static str,
    last_norm: Option<&'static str>,
}

const BERT: Names = Names {
    input_norm: Some("embeddings.LayerNorm"),
    attention_norm: "attention.output.LayerNorm",
    feed_forward_norm: "output.LayerNorm",
    last_norm: None,
};

const MEGATRON: Names = Names {
    input_norm: None,
    attention_norm: "attention.ln",
    feed_forward_norm: "ln",
    last_norm: Some("encoder.ln"),
};

impl<'a> Bert<'a> {
    fn read(
        source: Source<'a>,
        family: &'static str,
        chain: impl Fn(Option<super::super::Norm>) -> Chain,
    ) -> Result<Self, CheckpointError> {
        let fields = source.config;
        settings::refuse(fields, MUST_BE_OFF)?;
        settings::only(fields, "position_embedding_type", "absolute")?;
        let names = if family == "bert" { &BERT } else { &MEGATRON };
        let width = fields.required_size("hidden_size", MAX_SIZE)?;
        let vocab = fields.required_size("vocab_size", MAX_SIZE)?;
        let longest = fields.size("max_position_embeddings", MAX_SIZE)?.unwrap_or(512);
        let trained =
            source.modules.and_then(|modules| modules.longest).map(|trained| trained.min(longest));
        let context = settings::context(source.context.or(trained), longest)?;
        let types = fields.size("type_vocab_size", MAX_SIZE)?.unwrap_or(2);
        let mut parts = Parts::new(source.tensors, settings::eps(fields, "layer_norm_eps", 1e-12)?);
        let prefix = parts.prefix("bert.", "embeddings.word_embeddings.weight");
        let embedding = |part: &str| format!("{prefix}embeddings.{part}_embeddings.weight");
        let embed = parts.finder.matrix(&embedding("word"), vocab, width)?;
        let positions = parts.positions(&embedding("position"), longest, width, 0..context)?;
        let types = Some(parts.finder.matrix(&embedding("token_type"), types, width)?);
        let norm = match names.input_norm {
            Some(name) => Some(parts.layer_norm(&format!("{prefix}{name}"), width)?),
            None => None,
        };
        let mut chain = chain(norm);
        let layer = Layer::read(fields, width)?;
        for number in 0..fields.required_size("num_hidden_layers", MAX_LAYERS)? {
            layer.push(
                &mut parts,
                &mut chain,
                names,
                &format!("{prefix}encoder.layer.{number}."),
                number,
            )?;
        }
        let last = match names.last_norm {
            Some(name) => Some(parts.layer_norm(&format!("{prefix}{name}"), width)?),
            None => None,
        };
        let (blocks, norm) = chain.finish(last);
        let positions = Some(positions.into());
        let input =
            Input::Tokens { embedding: embed.into(), scale: 1.0, types: types.map(Into::into) };
        Ok(Self {
            family,
            parts,
            prefix,
            stack: Stack { width, context, input, positions, blocks, norm },
            vocab,
        })
    }

    /// With what modules say, or the mean.
    fn pooled(mut self, source: Source<'_>) -> Result<Architecture, CheckpointError> {
        let output = match source.modules {
            Some(modules) => modules.output(&mut self.parts, end_width(&self.stack))?,
            None => Output { pooling: Pooling::Mean, dense: None, head: None, normalize: false },
        };
        let pooler = format!("{}pooler.", self.prefix);
        self.finish(source, output, vec![], |name| {
            name.starts_with("cls.") || name.starts_with(&pooler)
        })
    }

    fn classifier(mut self, source: Source<'_>) -> Result<Architecture, CheckpointError> {
        let (classes, labels) = settings::labels(source.config)?;
        let width = self.stack.width;
        let dense =
            self.parts.linear(&format!("{}pooler.dense", self.prefix), width, width, true)?;
        let head = self.parts.linear("classifier", classes, width, true)?;
        let dense = Some((dense.into(), Activation::Tanh));
        let output =
            Output { pooling: Pooling::First, dense, head: Some(head.into()), normalize: false };
        self.finish(source, output, labels, |_| false)
    }

    fn finish(
        self,
        source: Source<'_>,
        output: Output,
        labels: Vec<String>,
        harmless: impl Fn(&str) -> bool,
    ) -> Result<Architecture, CheckpointError> {
        let numbers = format!("{}embeddings.position_ids", self.prefix);
        self.parts.finder.refuse_extra(|name| name == numbers || harmless(name))?;
        let (config, generation) = (source.config, source.generation);
        Ok(Architecture {
            family: self.family.to_owned(),
            stacks: vec![self.stack],
            output,
            bos: special_tokens::bos(config, generation, None, self.vocab)?,
            eos: special_tokens::eos(config, generation, None, self.vocab)?,
            start: None,
            labels,
        })
    }
}

/// The sizes of a layer.
struct Layer {
    width: usize,
    hidden: usize,
    heads: usize,
    activation: Activation,
}

impl Layer {
    fn read(fields: Fields<'_>, width: usize) -> Result<Self, CheckpointError> {
        Ok(Self {
            width,
            hidden: fields.required_size("intermediate_size", MAX_SIZE)?,
            heads: settings::heads(fields, "num_attention_heads", width)?,
            activation: settings::activation(fields, "hidden_act", "gelu")?,
        })
    }

    fn push(
        &self,
        parts: &mut Parts<'_>,
        chain: &mut Chain,
        names: &Names,
        at: &str,
        number: usize,
    ) -> Result<(), CheckpointError> {
        let (width, hidden) = (self.width, self.hidden);
        let square = |parts: &mut Parts<'_>, name: &str| {
            parts.linear(&format!("{at}attention.{name}"), width, width, true)
        };
        let products: [Product; 4] = [
            square(parts, "self.query")?,
            square(parts, "self.key")?,
            square(parts, "self.value")?,
            square(parts, "output.dense")?,
        ];
        let norm = parts.layer_norm(&format!("{at}{}", names.attention_norm), width)?;
        chain.push(number, norm, Branch::Attention(attention(products, self.heads, Mask::Full)));
        let up = parts.linear(&format!("{at}intermediate.dense"), hidden, width, true)?;
        let down = parts.linear(&format!("{at}output.dense"), width, hidden, true)?;
        let norm = parts.layer_norm(&format!("{at}{}", names.feed_forward_norm), width)?;
        chain.push(number, norm, plain(up, down, self.activation));
        Ok(())
    }
}
