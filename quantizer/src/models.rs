//! Small random models of every kind for unit tests, and samples for them.

use crate::checkpoint::{
    Activation, Architecture, Attention, Block, Checkpoint, FeedForward, Input, Join, Linear,
    Middle, Norm, NormKind, Output, Picture, Pooling, Positions, Relative, Rope, Sight, Stack,
    TensorRef,
};
use crate::reference::{Sample, Source};
use crate::testing::numbers;

/// Numbers in a row of most stacks.
const WIDTH: usize = 24;
const VOCAB: usize = 40;

/// A model, and the directory it is in.
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) samples: Vec<Sample>,
    _dir: tempfile::TempDir,
}

/// Tensors in the making.
#[derive(Default)]
struct Maker {
    tensors: Vec<(String, Vec<usize>, Vec<u8>)>,
    norm: Option<NormKind>,
    join: Option<Join>,
}

impl Maker {
    fn tensor(&mut self, rows: usize, cols: usize, number: impl Fn(f32) -> f32) -> TensorRef {
        let name = format!("t{}", self.tensors.len());
        let seed = self.tensors.len() as u32 + 1;
        let bytes =
            numbers(rows * cols, seed).into_iter().flat_map(|x| number(x).to_le_bytes()).collect();
        self.tensors.push((name.clone(), vec![rows, cols], bytes));
        TensorRef::stored(&name, rows, cols)
    }

    fn table(&mut self, rows: usize, cols: usize) -> TensorRef {
        self.tensor(rows, cols, |x| x)
    }

    fn linear(&mut self, rows: usize, cols: usize) -> Linear {
        let scale = 1.5 / (cols as f32).sqrt();
        Linear {
            weight: self.tensor(rows, cols, |x| x * scale),
            bias: Some(self.tensor(1, rows, |x| x * 0.2)),
        }
    }

    fn norm(&mut self, width: usize) -> Norm {
        let kind = self.norm.unwrap_or(NormKind::Layer);
        let weight = self.tensor(1, width, |x| 1.0 + x / 2.0);
        let bias = (kind == NormKind::Layer).then(|| self.tensor(1, width, |x| x / 2.0));
        Norm { kind, weight, bias, eps: 1e-5 }
    }

    fn block(&mut self, layer: usize, width: usize, middle: Middle) -> Block {
        Block { layer, norm: Some(self.norm(width)), join: self.join.unwrap_or(Join::Pre), middle }
    }

    fn attention(&mut self, layer: usize, sight: Sight, memory: usize) -> Block {
        let seen = if sight == Sight::Cross { memory } else { WIDTH };
        let attention = Attention {
            query: self.linear(16, WIDTH),
            key: self.linear(8, seen),
            value: self.linear(8, seen),
            output: self.linear(WIDTH, 16),
            heads: 4,
            kv_heads: 2,
            head_dim: 4,
            scale: 0.5,
            query_norm: None,
            key_norm: None,
            rope: None,
            sight,
            relative: None,
        };
        self.block(layer, WIDTH, Middle::Attention(attention))
    }

    fn feed_forward(&mut self, layer: usize, gated: bool, activation: Activation) -> Block {
        let gate = gated.then(|| self.linear(36, WIDTH));
        let (up, down) = (self.linear(36, WIDTH), self.linear(WIDTH, 36));
        self.block(layer, WIDTH, Middle::FeedForward(FeedForward { gate, up, down, activation }))
    }

    fn stack(
        &mut self,
        input: Input,
        context: usize,
        positions: bool,
        blocks: Vec<Block>,
    ) -> Stack {
        let positions = positions.then(|| Positions::Learned(self.table(context, WIDTH)));
        Stack { width: WIDTH, context, input, positions, blocks, norm: Some(self.norm(WIDTH)) }
    }

    fn tokens(&mut self) -> Input {
        Input::Tokens { embed: self.table(VOCAB, WIDTH), scale: 1.0, types: None }
    }

    fn model(
        self,
        name: &'static str,
        stacks: Vec<Stack>,
        output: Output,
        samples: Vec<Sample>,
    ) -> Model {
        let dir = tempfile::tempdir().unwrap();
        let views = self.tensors.iter().map(|(name, shape, bytes)| {
            let view =
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
            (name.clone(), view.unwrap())
        });
        safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
        let architecture = Architecture {
            family: name.to_owned(),
            stacks,
            output,
            bos: None,
            eos: vec![],
            start: Some(1),
            labels: vec![],
        };
        let checkpoint = Checkpoint::described(dir.path(), architecture).unwrap();
        Model { name, checkpoint, samples, _dir: dir }
    }

    fn logits(&mut self) -> Output {
        Output {
            pooling: Pooling::None,
            dense: None,
            head: Some(self.linear(VOCAB, WIDTH)),
            normalize: false,
        }
    }
}

fn ids(count: usize, seed: u32) -> Vec<u32> {
    numbers(count, seed).into_iter().map(|x| ((x + 1.0) * 0.499 * VOCAB as f32) as u32).collect()
}

/// Sequences of different lengths.
fn samples(source: impl Fn(usize, u32) -> Source, target: bool) -> Vec<Sample> {
    let sample = |i: u32| {
        let length = 5 + (i as usize * 7) % 13;
        let target = if target { ids(3 + i as usize % 9, 100 + i) } else { vec![] };
        Sample { source: source(length, i), target }
    };
    (0..48).map(sample).collect()
}

fn tokens(length: usize, seed: u32) -> Source {
    Source::Tokens { tokens: ids(length, seed), types: vec![] }
}

fn decoder() -> Model {
    let mut make = Maker { norm: Some(NormKind::Rms), ..Maker::default() };
    let mut attention = make.attention(0, Sight::Earlier, 0);
    if let Middle::Attention(attention) = &mut attention.middle {
        attention.rope = Some(Rope { inv_freq: vec![1.0, 0.1], magnitude: 1.0 });
    }
    let blocks = vec![attention, make.feed_forward(0, true, Activation::Silu)];
    let input = make.tokens();
    let (stack, output) = (make.stack(input, 32, false, blocks), make.logits());
    make.model("decoder", vec![stack], output, samples(tokens, false))
}

/// As BERT: every norm behind its branch.
fn encoder() -> Model {
    let mut make = Maker { join: Some(Join::Post), ..Maker::default() };
    let attention = |make: &mut Maker, layer| make.attention(layer, Sight::All, 0);
    let forward = |make: &mut Maker, layer| make.feed_forward(layer, false, Activation::Gelu);
    let blocks =
        (0..2).flat_map(|layer| [attention(&mut make, layer), forward(&mut make, layer)]).collect();
    let input = Input::Tokens {
        embed: make.table(VOCAB, WIDTH),
        scale: 2.0,
        types: Some(make.table(2, WIDTH)),
    };
    let stack = make.stack(input, 32, true, blocks);
    let output = Output { pooling: Pooling::Mean, dense: None, head: None, normalize: true };
    let typed = |length, seed| Source::Tokens {
        tokens: ids(length, seed),
        types: ids(length, seed + 7).iter().map(|i| i % 2).collect(),
    };
    make.model("encoder", vec![stack], output, samples(typed, false))
}

/// As T5.
fn encoder_decoder() -> Model {
    let mut make = Maker { norm: Some(NormKind::Rms), ..Maker::default() };
    let stack = |make: &mut Maker, sight, later: bool| {
        let mut blocks = vec![make.attention(0, sight, 0)];
        if let Middle::Attention(attention) = &mut blocks[0].middle {
            attention.relative = Some(Relative {
                table: make.table(8, 4),
                max_distance: 12,
                bidirectional: sight == Sight::All,
            });
        }
        if later {
            blocks.push(make.attention(0, Sight::Cross, WIDTH));
        }
        blocks.push(make.feed_forward(0, later, Activation::Relu));
        let input = make.tokens();
        make.stack(input, 32, false, blocks)
    };
    let stacks = vec![stack(&mut make, Sight::All, false), stack(&mut make, Sight::Earlier, true)];
    let output = make.logits();
    make.model("encoder-decoder", stacks, output, samples(tokens, true))
}

/// A picture's patches, an interface that asks for them and makes them another size, and a decoder.
fn reader() -> Model {
    let mut make = Maker::default();
    let picture = Picture {
        height: 4,
        width: 6,
        patch: 2,
        channels: 3,
        scale: vec![0.01; 3],
        offset: vec![-1.0, 0.0, 0.5],
    };
    let input = Input::Pixels {
        linear: make.linear(WIDTH, 12),
        class: Some(make.table(1, WIDTH)),
        picture,
    };
    let blocks =
        vec![make.attention(0, Sight::All, 0), make.feed_forward(0, false, Activation::GeluTanh)];
    let vision = make.stack(input, 7, true, blocks);
    let mut blocks =
        vec![make.attention(0, Sight::Cross, WIDTH), make.feed_forward(0, false, Activation::Gelu)];
    let projection = make.linear(20, WIDTH);
    let norm = Some(make.norm(WIDTH));
    blocks.push(Block {
        layer: 1,
        norm,
        join: Join::Replace,
        middle: Middle::Projection(projection),
    });
    let queries = Input::Queries(make.table(3, WIDTH));
    let mut asks = make.stack(queries, 3, false, blocks);
    asks.norm = Some(make.norm(20));
    let mut blocks =
        vec![make.attention(0, Sight::Earlier, 0), make.attention(0, Sight::Cross, 20)];
    blocks.push(make.feed_forward(0, false, Activation::Gelu));
    let input = make.tokens();
    let speaks = make.stack(input, 32, true, blocks);
    let output = make.logits();
    let pixels = |_: usize, seed| {
        Source::Pixels(numbers(72, seed).iter().map(|x| (x * 127.0 + 128.0) as u8).collect())
    };
    make.model("reader", vec![vision, asks, speaks], output, samples(pixels, true))
}

/// Frames of sound, a layer on top of them, and a few classes.
fn listener() -> Model {
    let mut make = Maker { join: Some(Join::Post), ..Maker::default() };
    let input =
        Input::Features { linear: make.linear(WIDTH, 5), class: Some(make.table(1, WIDTH)) };
    let blocks =
        vec![make.attention(0, Sight::All, 0), make.feed_forward(0, true, Activation::Gelu)];
    let mut hears = make.stack(input, 32, true, blocks);
    hears.norm = None;
    // Goes on with another width.
    let linear = make.linear(10, WIDTH);
    let block =
        Block { layer: 0, norm: None, join: Join::Replace, middle: Middle::Projection(linear) };
    let mut narrow = make.stack(Input::States, 32, false, vec![block]);
    narrow.norm = None;
    let dense = Some((make.linear(10, 10), Activation::Tanh));
    let output =
        Output { pooling: Pooling::First, dense, head: Some(make.linear(4, 10)), normalize: false };
    let features = |length: usize, seed| Source::Features(numbers(length * 5, seed));
    make.model("listener", vec![hears, narrow], output, samples(features, false))
}

/// All of them.
pub(crate) fn all() -> Vec<Model> {
    vec![decoder(), encoder(), encoder_decoder(), reader(), listener()]
}
