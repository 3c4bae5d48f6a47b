//! Small random models of every kind for unit tests, and samples for them.

use kinglet_model::{Operation, Picture};

use kinglet_import::checkpoint::{
    Activation, Architecture, AttentionBranch, Block, Branch, Checkpoint, FeedForwardBranch, Input,
    Mask, Norm, NormKind, Output, Pooling, Product, Relative, Residual, Rope, Stack, TensorRef,
    Values,
};
use kinglet_reference::testing::numbers;
use kinglet_reference::{Sample, Source};

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
    /// Norms follow their branches.
    post: bool,
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

    fn linear(&mut self, rows: usize, cols: usize) -> Product {
        let scale = 1.5 / (cols as f32).sqrt();
        Product {
            weight: self.tensor(rows, cols, |x| x * scale),
            bias: Some(self.tensor(1, rows, |x| x * 0.2)),
        }
    }

    fn norm(&mut self, width: usize) -> Norm {
        let kind = self.norm.unwrap_or(NormKind::Layer);
        let weight = self.tensor(1, width, |x| 1.0 + x / 2.0);
        let bias = (kind == NormKind::Layer).then(|| self.tensor(1, width, |x| x / 2.0));
        Norm { kind, weight: weight.into(), bias: bias.map(Into::into), eps: 1e-5 }
    }

    fn block(&mut self, layer: usize, width: usize, branch: Branch) -> Block {
        let norm = self.norm(width);
        let residual = if self.post { Residual::Post(norm.clone()) } else { Residual::Pre };
        branch.block(layer, Some(norm), residual)
    }

    fn attention(&mut self, layer: usize, mask: Mask, memory: usize) -> Block {
        let seen = if mask == Mask::Cross { memory } else { WIDTH };
        let attention = AttentionBranch {
            query: self.linear(16, WIDTH),
            key: self.linear(8, seen),
            value: self.linear(8, seen),
            output: self.linear(WIDTH, 16),
            heads: 4,
            kv_heads: 2,
            head_dim: 4,
            score_scale: 0.5,
            query_norm: None,
            key_norm: None,
            rope: None,
            mask,
            relative: None,
        };
        self.block(layer, WIDTH, Branch::Attention(attention))
    }

    fn feed_forward(&mut self, layer: usize, gated: bool, activation: Activation) -> Block {
        let gate = gated.then(|| self.linear(36, WIDTH));
        let (up, down) = (self.linear(36, WIDTH), self.linear(WIDTH, 36));
        let branch = FeedForwardBranch { gate, up, down, activation };
        self.block(layer, WIDTH, Branch::FeedForward(branch))
    }

    fn stack(
        &mut self,
        input: Input,
        context: usize,
        positions: bool,
        blocks: Vec<Block>,
    ) -> Stack {
        let positions = positions.then(|| self.table(context, WIDTH).into());
        Stack { width: WIDTH, context, input, positions, blocks, norm: Some(self.norm(WIDTH)) }
    }

    fn tokens(&mut self) -> Input {
        Input::Tokens { embedding: self.table(VOCAB, WIDTH).into(), scale: 1.0, types: None }
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
            head: Some(self.linear(VOCAB, WIDTH).into()),
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
    let mut attention = make.attention(0, Mask::Causal, 0);
    if let Operation::Attention(attention) = &mut attention.operation {
        attention.rope = Some(Rope { frequencies: vec![1.0, 0.1], magnitude: 1.0 });
    }
    let blocks = vec![attention, make.feed_forward(0, true, Activation::Silu)];
    let input = make.tokens();
    let (stack, output) = (make.stack(input, 32, false, blocks), make.logits());
    make.model("decoder", vec![stack], output, samples(tokens, false))
}

/// As BERT: every norm after its branch.
fn encoder() -> Model {
    let mut make = Maker { post: true, ..Maker::default() };
    let attention = |make: &mut Maker, layer| make.attention(layer, Mask::Full, 0);
    let forward = |make: &mut Maker, layer| make.feed_forward(layer, false, Activation::Gelu);
    let blocks =
        (0..2).flat_map(|layer| [attention(&mut make, layer), forward(&mut make, layer)]).collect();
    let input = Input::Tokens {
        embedding: make.table(VOCAB, WIDTH).into(),
        scale: 2.0,
        types: Some(make.table(2, WIDTH).into()),
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
    let stack = |make: &mut Maker, mask, later: bool| {
        let mut blocks = vec![make.attention(0, mask, 0)];
        if let Operation::Attention(attention) = &mut blocks[0].operation {
            attention.relative = Some(Relative {
                table: make.table(8, 4),
                max_distance: 12,
                bidirectional: mask == Mask::Full,
            });
        }
        if later {
            blocks.push(make.attention(0, Mask::Cross, WIDTH));
        }
        blocks.push(make.feed_forward(0, later, Activation::Relu));
        let input = make.tokens();
        make.stack(input, 32, false, blocks)
    };
    let stacks = vec![stack(&mut make, Mask::Full, false), stack(&mut make, Mask::Causal, true)];
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
        pixel: Values::Computed(vec![0.01, 0.01, 0.01, -1.0, 0.0, 0.5].into(), 6),
    };
    let input = Input::Features {
        linear: make.linear(WIDTH, 12).into(),
        class: Some(make.table(1, WIDTH).into()),
        picture: Some(picture),
    };
    let blocks =
        vec![make.attention(0, Mask::Full, 0), make.feed_forward(0, false, Activation::GeluTanh)];
    let vision = make.stack(input, 7, true, blocks);
    let mut blocks =
        vec![make.attention(0, Mask::Cross, WIDTH), make.feed_forward(0, false, Activation::Gelu)];
    let projection = make.linear(20, WIDTH);
    let norm = Some(make.norm(WIDTH));
    blocks.push(Branch::Projection(projection).block(1, norm, Residual::Replace));
    let queries = Input::Queries(make.table(3, WIDTH).into());
    let mut asks = make.stack(queries, 3, false, blocks);
    asks.norm = Some(make.norm(20));
    let mut blocks = vec![make.attention(0, Mask::Causal, 0), make.attention(0, Mask::Cross, 20)];
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
    let mut make = Maker { post: true, ..Maker::default() };
    let input = Input::Features {
        linear: make.linear(WIDTH, 5).into(),
        class: Some(make.table(1, WIDTH).into()),
        picture: None,
    };
    let blocks =
        vec![make.attention(0, Mask::Full, 0), make.feed_forward(0, true, Activation::Gelu)];
    let mut hears = make.stack(input, 32, true, blocks);
    hears.norm = None;
    // Goes on with another width.
    let linear = make.linear(10, WIDTH);
    let block = Branch::Projection(linear).block(0, None, Residual::Replace);
    let mut narrow = make.stack(Input::States, 32, false, vec![block]);
    narrow.norm = None;
    let dense = Some((make.linear(10, 10).into(), Activation::Tanh));
    let head = Some(make.linear(4, 10).into());
    let output = Output { pooling: Pooling::First, dense, head, normalize: false };
    let features = |length: usize, seed| Source::Features(numbers(length * 5, seed));
    make.model("listener", vec![hears, narrow], output, samples(features, false))
}

/// All of them.
pub(crate) fn all() -> Vec<Model> {
    vec![decoder(), encoder(), encoder_decoder(), reader(), listener()]
}
