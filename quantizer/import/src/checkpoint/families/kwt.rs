//! The Keyword Transformer: frames of sound as numbers, a class token in front, norms after the
//! branches.
//!
//! The tensors under `frontend.` make those numbers of sound; they are no part of the stack.

use super::super::fields::{Fields, MAX_SIZE};
use super::super::settings::{self, MAX_LAYERS};
use super::super::{Architecture, Branch, CheckpointError};
use super::super::{Input, Mask, Output, Pooling, Stack};
use super::parts::{Chain, Parts, attention, plain};
use super::source::Source;

pub(super) fn import(source: Source<'_>) -> Result<Architecture, CheckpointError> {
    let fields = source.config;
    settings::refuse(fields, &[("distill_token", "models with a class token are supported")])?;
    if fields.flag("cls_token")? == Some(false) {
        return Err(fields.unsupported("cls_token", "models with a class token are supported"));
    }
    let width = fields.required_size("d_model", MAX_SIZE)?;
    let frames = fields.required_size("num_tokens", MAX_SIZE)?;
    let numbers = fields.required_size("dct", MAX_SIZE)?;
    let context = settings::fixed_context(source.context, frames + 1)?;
    let mut parts = Parts::new(source.tensors, settings::eps(fields, "layer_norm_eps", 1e-6)?);
    let linear = parts.linear("patch_embed", width, numbers, true)?;
    let class = Some(parts.finder.vector("cls_token", width)?.into());
    let positions = Some(parts.finder.matrix("pos_embed", context, width)?.into());
    let norms_first = norms_first(fields)?;
    let mut chain = if norms_first { Chain::before() } else { Chain::behind(None) };
    for number in 0..fields.required_size("num_layers", MAX_LAYERS)? {
        layer(fields, &mut parts, &mut chain, number)?;
    }
    let last = match norms_first {
        true => Some(parts.layer_norm("norm", width)?),
        false => None,
    };
    let (blocks, norm) = chain.finish(last);
    let (classes, labels) = labels(fields)?;
    let head = Some(parts.linear("head", classes, width, true)?.into());
    parts.finder.refuse_extra(|name| name.starts_with("frontend."))?;
    let input = Input::Features { linear: linear.into(), class, picture: None };
    Ok(Architecture {
        family: "kwt".to_owned(),
        stacks: vec![Stack { width, context, input, positions, blocks, norm }],
        output: Output { pooling: Pooling::First, dense: None, head, normalize: false },
        bos: None,
        eos: vec![],
        start: None,
        labels,
    })
}

fn norms_first(fields: Fields<'_>) -> Result<bool, CheckpointError> {
    match fields.text("norm")?.unwrap_or("post") {
        "post" => Ok(false),
        "pre" => Ok(true),
        _ => Err(fields.unsupported("norm", "supported are \"post\" and \"pre\"")),
    }
}

fn layer(
    fields: Fields<'_>,
    parts: &mut Parts<'_>,
    chain: &mut Chain,
    number: usize,
) -> Result<(), CheckpointError> {
    let width = fields.required_size("d_model", MAX_SIZE)?;
    let hidden = fields.required_size("mlp_dim", MAX_SIZE)?;
    let heads = settings::heads(fields, "num_heads", width)?;
    let activation = settings::activation(fields, "activation", "gelu_tanh")?;
    let at = |part: &str| format!("blocks.{number}.{part}");
    let mut square = |name: &str, bias| parts.linear(&at(name), width, width, bias);
    let products = [
        square("attn.q", false)?,
        square("attn.k", false)?,
        square("attn.v", false)?,
        square("attn.proj", true)?,
    ];
    let norm = parts.layer_norm(&at("norm1"), width)?;
    chain.push(number, norm, Branch::Attention(attention(products, heads, Mask::Full)));
    let up = parts.linear(&at("mlp.fc1"), hidden, width, true)?;
    let down = parts.linear(&at("mlp.fc2"), width, hidden, true)?;
    let norm = parts.layer_norm(&at("norm2"), width)?;
    chain.push(number, norm, plain(up, down, activation));
    Ok(())
}

/// How many classes there are, and their names.
fn labels(fields: Fields<'_>) -> Result<(usize, Vec<String>), CheckpointError> {
    const KEY: &str = "labels";
    let count = fields.required_size("num_labels", MAX_SIZE)?;
    let Some(value) = fields.get(KEY) else { return Ok((count, vec![])) };
    let names = value.as_array().filter(|names| names.len() == count);
    let names =
        names.and_then(|names| names.iter().map(|name| name.as_str().map(str::to_owned)).collect());
    names
        .map(|names| (count, names))
        .ok_or_else(|| fields.bad(KEY, &format!("a list of {count} names, as num_labels says")))
}
