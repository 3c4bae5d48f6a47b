//! The Vision Transformer: patches of a picture, a class token in front.

use super::super::fields::{CONFIG_LIMIT, Fields, MAX_SIZE, read_object};
use super::super::settings::{self, MAX_LAYERS};
use super::super::{Activation, Architecture, Branch, CheckpointError, Product, Values};
use super::super::{Input, Mask, Output, Picture, Pooling, Stack};
use super::parts::{Chain, Parts, attention, plain};
use super::source::Source;

/// How pictures are made ready.
pub(in super::super) const PREPROCESSOR: &str = "preprocessor_config.json";
/// Pixels on a side, at most.
const MAX_SIDE: usize = 1 << 13;

/// A model without a head: the state of the class token. A pooler is left out.
pub(super) fn model(source: Source<'_>) -> Result<Architecture, CheckpointError> {
    let (mut parts, settings, pixels) = read(source)?;
    let prefix = parts.prefix("vit.", "embeddings.cls_token");
    let stack = settings.stack(&mut parts, prefix, pixels)?;
    let pooler = format!("{prefix}pooler.");
    let unread = format!("{prefix}embeddings.mask_token");
    parts.finder.refuse_extra(|name| name.starts_with(&pooler) || name == unread)?;
    let output = Output { pooling: Pooling::First, dense: None, head: None, normalize: false };
    Ok(finish(stack, output, vec![]))
}

/// A classifier of pictures.
pub(super) fn classifier(source: Source<'_>) -> Result<Architecture, CheckpointError> {
    let (mut parts, settings, pixels) = read(source)?;
    let (classes, labels) = settings::labels(source.config)?;
    let stack = settings.stack(&mut parts, "vit.", pixels)?;
    let head = Some(parts.linear("classifier", classes, settings.width, true)?.into());
    parts.finder.refuse_extra(|name| name == "vit.embeddings.mask_token")?;
    Ok(finish(
        stack,
        Output { pooling: Pooling::First, dense: None, head, normalize: false },
        labels,
    ))
}

fn read(source: Source<'_>) -> Result<(Parts<'_>, Settings, [Vec<f32>; 2]), CheckpointError> {
    let settings = Settings::read(source.config)?;
    settings::fixed_context(source.context, settings.rows())?;
    let parts = Parts::new(source.tensors, settings.eps);
    let pixels = pixels(source, settings.channels)?;
    Ok((parts, settings, pixels))
}

fn finish(stack: Stack, output: Output, labels: Vec<String>) -> Architecture {
    let family = "vit".to_owned();
    Architecture {
        family,
        stacks: vec![stack],
        output,
        bos: None,
        eos: vec![],
        start: None,
        labels,
    }
}

/// What the configuration says.
pub(super) struct Settings {
    pub(super) width: usize,
    pub(super) eps: f32,
    pub(super) channels: usize,
    height: usize,
    picture_width: usize,
    patch: usize,
    layers: usize,
    heads: usize,
    hidden: usize,
    activation: Activation,
    bias: bool,
}

impl Settings {
    pub(super) fn read(fields: Fields<'_>) -> Result<Self, CheckpointError> {
        settings::refuse(fields, &[("is_decoder", "encoders are supported")])?;
        let width = fields.required_size("hidden_size", MAX_SIZE)?;
        let [height, picture_width] = side(fields, "image_size", 224)?;
        let [patch, patch_width] = side(fields, "patch_size", 16)?;
        if patch != patch_width {
            return Err(fields.unsupported("patch_size", "square patches are supported"));
        }
        if !height.is_multiple_of(patch) || !picture_width.is_multiple_of(patch) {
            return Err(fields.bad("image_size", &format!("a multiple of patch_size, {patch}")));
        }
        Ok(Self {
            width,
            eps: settings::eps(fields, "layer_norm_eps", 1e-12)?,
            channels: fields.size("num_channels", 4)?.unwrap_or(3),
            height,
            picture_width,
            patch,
            layers: fields.required_size("num_hidden_layers", MAX_LAYERS)?,
            heads: settings::heads(fields, "num_attention_heads", width)?,
            hidden: fields.required_size("intermediate_size", MAX_SIZE)?,
            activation: settings::activation(fields, "hidden_act", "gelu")?,
            bias: fields.flag("qkv_bias")?.unwrap_or(true),
        })
    }

    /// Rows of the stack: the patches and the class token.
    pub(super) fn rows(&self) -> usize {
        (self.height / self.patch) * (self.picture_width / self.patch) + 1
    }

    /// The stack, for pixels of this scale and offset.
    pub(super) fn stack(
        &self,
        parts: &mut Parts<'_>,
        prefix: &str,
        [scale, offset]: [Vec<f32>; 2],
    ) -> Result<Stack, CheckpointError> {
        let (width, patch, channels) = (self.width, self.patch, self.channels);
        let at = |part: &str| format!("{prefix}embeddings.{part}");
        let kernel = at("patch_embeddings.projection.weight");
        let weight =
            parts.finder.matrix_of(&kernel, &[width, channels, patch, patch])?.patches(channels);
        let bias = Some(parts.finder.vector(&at("patch_embeddings.projection.bias"), width)?);
        let class = Some(parts.finder.vector(&at("cls_token"), width)?.into());
        let positions = parts.finder.matrix(&at("position_embeddings"), self.rows(), width)?;
        let picture = Picture {
            height: self.height,
            width: self.picture_width,
            patch,
            channels,
            pixel: Values::Computed([scale, offset].concat().into(), 2 * channels),
        };
        let mut chain = Chain::before();
        for number in 0..self.layers {
            self.layer(parts, &mut chain, &format!("{prefix}encoder.layer.{number}."), number)?;
        }
        let (blocks, norm) =
            chain.finish(Some(parts.layer_norm(&format!("{prefix}layernorm"), width)?));
        let input = Input::Features {
            linear: Product { weight, bias }.into(),
            class,
            picture: Some(picture),
        };
        let positions = Some(positions.into());
        Ok(Stack { width, context: self.rows(), input, positions, blocks, norm })
    }

    fn layer(
        &self,
        parts: &mut Parts<'_>,
        chain: &mut Chain,
        at: &str,
        number: usize,
    ) -> Result<(), CheckpointError> {
        let (width, hidden, bias) = (self.width, self.hidden, self.bias);
        let mut square =
            |name: &str, bias| parts.linear(&format!("{at}attention.{name}"), width, width, bias);
        let products = [
            square("attention.query", bias)?,
            square("attention.key", bias)?,
            square("attention.value", bias)?,
            square("output.dense", true)?,
        ];
        let norm = parts.layer_norm(&format!("{at}layernorm_before"), width)?;
        chain.push(number, norm, Branch::Attention(attention(products, self.heads, Mask::Full)));
        let up = parts.linear(&format!("{at}intermediate.dense"), hidden, width, true)?;
        let down = parts.linear(&format!("{at}output.dense"), width, hidden, true)?;
        let norm = parts.layer_norm(&format!("{at}layernorm_after"), width)?;
        chain.push(number, norm, plain(up, down, self.activation));
        Ok(())
    }
}

/// Height and width: one number for both, or two.
fn side(fields: Fields<'_>, key: &str, default: usize) -> Result<[usize; 2], CheckpointError> {
    let side = |value: &serde_json::Value| {
        let side = value.as_u64().and_then(|side| usize::try_from(side).ok());
        side.filter(|side| (1..=MAX_SIDE).contains(side))
    };
    let Some(value) = fields.get(key) else { return Ok([default, default]) };
    let found = match value.as_array().map(Vec::as_slice) {
        Some([height, width]) => side(height).zip(side(width)),
        Some(_) => None,
        None => side(value).map(|both| (both, both)),
    };
    let found = found.map(|(height, width)| [height, width]);
    found.ok_or_else(|| fields.bad(key, &format!("a whole number from 1 to {MAX_SIDE}, or two")))
}

/// Scale and offset of each channel's bytes.
pub(super) fn pixels(
    source: Source<'_>,
    channels: usize,
) -> Result<[Vec<f32>; 2], CheckpointError> {
    let settings = read_object(&source.dir.join(PREPROCESSOR), CONFIG_LIMIT)?;
    let fields = Fields::new(&settings, PREPROCESSOR);
    let factor = match fields.flag("do_rescale")?.unwrap_or(true) {
        true => fields.positive("rescale_factor")?.unwrap_or(1.0 / 255.0),
        false => 1.0,
    };
    let numbers = |key: &str| {
        let list = fields
            .get(key)
            .and_then(serde_json::Value::as_array)
            .filter(|list| list.len() == channels);
        let numbers = list.and_then(|list| {
            list.iter().map(serde_json::Value::as_f64).collect::<Option<Vec<f64>>>()
        });
        let expected = format!("a number for each of the {channels} channels");
        if fields.get(key).is_none() {
            Ok(vec![0.5; channels])
        } else {
            numbers.ok_or_else(|| fields.bad(key, &expected))
        }
    };
    let (mean, deviation) = match fields.flag("do_normalize")?.unwrap_or(true) {
        true => (numbers("image_mean")?, numbers("image_std")?),
        false => (vec![0.0; channels], vec![1.0; channels]),
    };
    let scale: Vec<f32> = deviation.iter().map(|deviation| (factor / deviation) as f32).collect();
    let offset: Vec<f32> =
        mean.iter().zip(&deviation).map(|(mean, deviation)| (-mean / deviation) as f32).collect();
    match scale.iter().chain(&offset).all(|number| number.is_finite()) {
        true => Ok([scale, offset]),
        false => Err(fields.bad("image_std", "numbers that pixels can be divided by")),
    }
}
