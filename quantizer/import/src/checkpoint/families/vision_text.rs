//! A Vision Transformer that GPT-2 describes.
//!
//! ```text
//! picture -> ViT, its last norm -> [a product, where the widths differ] -> memory of GPT-2
//! ```

use super::super::fields::Fields;
use super::super::settings;
use super::super::{Architecture, Branch, CheckpointError, special_tokens};
use super::super::{Input, Output, Pooling, Residual, Stack};
use super::parts::Parts;
use super::source::Source;
use super::{gpt2, vit};

const HEAD: &str = "decoder.lm_head.weight";

pub(super) fn import(source: Source<'_>) -> Result<Architecture, CheckpointError> {
    let fields = source.config;
    settings::refuse(fields, &[])?;
    let encoder = part(fields, "encoder", "encoder.", "vit")?;
    let decoder = part(fields, "decoder", "decoder.", "gpt2")?;
    if decoder.flag("add_cross_attention")? == Some(false) {
        return Err(decoder
            .unsupported("add_cross_attention", "decoders with cross attention are supported"));
    }
    if let Some(width) = decoder.get("cross_attention_hidden_size") {
        let supported = format!("null is supported, not {width}: states have the decoder's width");
        return Err(decoder.unsupported("cross_attention_hidden_size", &supported));
    }
    let pictures = vit::Settings::read(encoder)?;
    let texts = gpt2::Settings::read(decoder, source.context)?;
    let mut parts = Parts::new(source.tensors, pictures.eps);
    let pixels = vit::pixels(source, pictures.channels)?;
    let mut stacks = vec![pictures.stack(&mut parts, "encoder.", pixels)?];
    if pictures.width != texts.width {
        stacks.push(bridge(&mut parts, &pictures, texts.width)?);
    }
    parts.eps = texts.eps;
    let (stack, head) = texts.stack(&mut parts, "decoder.transformer.", HEAD, true)?;
    stacks.push(stack);
    parts.finder.refuse_extra(|name| {
        name.starts_with("encoder.pooler.") || texts.is_harmless(name, HEAD)
    })?;
    let (vocab, generation) = (texts.vocab, source.generation);
    // What the whole says goes before what its decoder says.
    let said = |key: &str| if fields.get(key).is_some() { fields } else { decoder };
    Ok(Architecture {
        family: "vision-encoder-decoder".to_owned(),
        stacks,
        output: Output {
            pooling: Pooling::None,
            dense: None,
            head: Some(head.into()),
            normalize: false,
        },
        bos: special_tokens::bos(said("bos_token_id"), generation, None, vocab)?,
        eos: special_tokens::eos(said("eos_token_id"), generation, None, vocab)?,
        start: special_tokens::start(said("decoder_start_token_id"), generation, None, vocab)?,
        labels: vec![],
    })
}

/// The configuration of a part.
fn part<'a>(
    fields: Fields<'a>,
    key: &'static str,
    prefix: &'static str,
    kind: &str,
) -> Result<Fields<'a>, CheckpointError> {
    let part = fields.object(key, prefix)?.ok_or_else(|| fields.missing(key, "an object"))?;
    match part.text("model_type")? {
        Some(found) if found == kind => Ok(part),
        _ => Err(part.unsupported("model_type", &format!("{kind:?} is supported"))),
    }
}

/// From the width of pictures to that of texts.
fn bridge(
    parts: &mut Parts<'_>,
    from: &vit::Settings,
    width: usize,
) -> Result<Stack, CheckpointError> {
    let linear = parts.linear("enc_to_dec_proj", width, from.width, true)?;
    let block = Branch::Projection(linear).block(0, None, Residual::Replace);
    Ok(Stack {
        width: from.width,
        context: from.rows(),
        input: Input::States,
        positions: None,
        blocks: vec![block],
        norm: None,
    })
}
