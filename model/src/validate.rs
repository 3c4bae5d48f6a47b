//! What a record must be to become a view: checks that need no tensor, then the shapes of what was
//! read.

use kinglet_kernels::Matrix;
use kinglet_kernels::cache::MAX_HEAD_DIM;
use kinglet_kernels::scalar::transforms;

use crate::description::{
    Activation, Attention, Block, InPlace, Input, Inputs, Linear, Norm, Operation, Residual, Stack,
};
use crate::error::{BlockProblem, ModelProblem, StackProblem};
use crate::families::FAMILIES;
use crate::layout::{
    BlockRecord, MAX_BLOCKS, MAX_DIMENSION, MAX_STACKS, MAX_TENSORS, ModelRecord, NONE,
    StackRecord, activation, block, input, join, norm, pooling,
};
use crate::lowering::{inputs_of, mask_of};

/// Whether a number can be an epsilon or scale.
#[inline(never)]
fn is_scale(x: f32) -> bool {
    x >= 0.0 && x.is_finite()
}

/// What a tensor's code says; nothing where it is none, or `cols` values cannot go through that.
pub(crate) fn inputs_for(code: u32, cols: usize) -> Option<Inputs> {
    let inputs = inputs_of(u8::try_from(code).ok()?)?;
    (inputs != Inputs::Transformed || transforms(cols)).then_some(inputs)
}

/// Whether queries and keys can go through what the record says; the cache has them in one plane.
fn has_head_inputs(record: &BlockRecord) -> bool {
    inputs_for(record.heads_inputs, record.head_dim as usize)
        .is_some_and(|inputs| inputs != Inputs::Planes)
}

/// Checks the record of the whole model, which needs no tensor either.
pub(crate) fn check_model(record: &ModelRecord) -> Result<(), ModelProblem> {
    let special =
        [record.pooling, record.normalize].into_iter().any(|kind| kind != 0) || record.stacks > 1;
    if !FAMILIES && (special || record.dense != NONE || record.head_bias != NONE) {
        return Err(ModelProblem::NotBuilt);
    }
    if record.pooling > pooling::MAX
        || record.normalize > 1
        || Activation::of_code(record.dense_activation).is_none()
    {
        return Err(ModelProblem::Kind);
    }
    if record.reserved != 0 || !record.reserved2.are() {
        return Err(ModelProblem::Reserved);
    }
    let counts = record.blocks <= MAX_BLOCKS && record.tensors <= MAX_TENSORS;
    if counts && (1..=MAX_STACKS).contains(&record.stacks) {
        Ok(())
    } else {
        Err(ModelProblem::Dimension)
    }
}

/// Checks what needs no tensor.
pub(crate) fn check_block(record: &BlockRecord) -> Result<(), BlockProblem> {
    if !FAMILIES && (record.norm_kind != 0 || record.join != 0 || record.variant != 0) {
        return Err(BlockProblem::NotBuilt);
    }
    if record.norm_kind > norm::LAYER || record.join > join::REPLACE {
        return Err(BlockProblem::Variant);
    }
    if !record.reserved.are() {
        return Err(BlockProblem::Reserved);
    }
    let scales = [record.norm_eps, record.score_scale, record.head_norm_eps, record.rope_magnitude];
    if !scales.into_iter().all(is_scale) {
        return Err(BlockProblem::Value);
    }
    if record.window != 0 && record.kind != block::ATTENTION {
        return Err(BlockProblem::Variant);
    }
    match record.kind {
        block::ATTENTION => {
            let (heads, kv_heads) = (record.heads, record.kv_heads);
            let wide = record.head_dim == 0 || record.head_dim as usize > MAX_HEAD_DIM;
            if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 || wide {
                return Err(BlockProblem::Heads);
            }
            if mask_of(record).is_none() {
                return Err(BlockProblem::Variant);
            }
            if !has_head_inputs(record) {
                return Err(BlockProblem::Inputs);
            }
        }
        block::FEED_FORWARD if record.inner == 0 || record.inner > MAX_DIMENSION => {
            return Err(BlockProblem::Inner);
        }
        block::FEED_FORWARD
            if Activation::of_code(record.variant & !activation::PLAIN).is_none() =>
        {
            return Err(BlockProblem::Variant);
        }
        block::FEED_FORWARD => {}
        block::PROJECTION if !FAMILIES => return Err(BlockProblem::NotBuilt),
        block::PROJECTION if record.variant != 0 => return Err(BlockProblem::Variant),
        block::PROJECTION => {}
        other => return Err(BlockProblem::Kind(other)),
    }
    Ok(())
}

/// Checks what needs no tensor.
pub(crate) fn check_stack(record: &StackRecord) -> Result<(), StackProblem> {
    let special = record.input != 0 || record.norm_kind != 0 || record.embedding_scale != 1.0;
    let tables =
        [record.positions, record.types, record.norm_bias].into_iter().any(|table| table != NONE);
    if !FAMILIES && (special || tables) {
        return Err(StackProblem::NotBuilt);
    }
    if record.input > input::STATES || record.norm_kind > norm::LAYER {
        return Err(StackProblem::Kind);
    }
    if record.reserved != 0 || !record.reserved2.are() {
        return Err(StackProblem::Reserved);
    }
    if [record.width, record.out, record.context].into_iter().any(|n| n == 0 || n > MAX_DIMENSION) {
        return Err(StackProblem::Dimension);
    }
    if !is_scale(record.norm_eps) || !is_scale(record.embedding_scale) {
        return Err(StackProblem::Value);
    }
    if FAMILIES && record.input == input::PIXELS {
        let sizes = [record.picture_height, record.picture_width, record.patch, record.channels];
        // Bytes of the picture, and with them numbers of a patch, are a size of this machine.
        let bytes = [record.picture_width, record.channels]
            .into_iter()
            .try_fold(u32::from(record.picture_height), |all, n| all.checked_mul(n.into()));
        if sizes.contains(&0)
            || bytes.is_none_or(|bytes| bytes > MAX_DIMENSION)
            || !record.picture_height.is_multiple_of(record.patch)
            || !record.picture_width.is_multiple_of(record.patch)
        {
            return Err(StackProblem::Picture);
        }
    }
    Ok(())
}

fn fits(norm: Option<&Norm<&[f32]>>, width: usize) -> bool {
    norm.is_none_or(|norm| {
        // A layer norm has a bias, if only of zeros.
        let bias = norm.bias.map_or(!norm.is_layer(), |bias| bias.len() == width);
        norm.weight.len() == width && bias
    })
}

impl Linear<'_> {
    /// Whether it has these outputs and inputs.
    pub(crate) fn is(&self, rows: usize, cols: usize) -> bool {
        (self.matrix.rows(), self.matrix.cols()) == (rows, cols)
            && self.bias.is_none_or(|bias| bias.len() == rows)
    }
}

impl Stack<InPlace<'_>> {
    /// Numbers of a row of features; 0 where the stack reads none.
    pub fn features(&self) -> usize {
        self.feature_product().map_or(0, |linear| linear.matrix.cols())
    }

    /// Rows that are read row by row: neither of these matrices may be sparse. The stream has
    /// width `end` after the last block.
    pub(crate) fn check_shapes(&self, end: usize) -> Result<(), StackProblem> {
        let (width, context) = (self.width, self.context);
        let table = |matrix: &Matrix<'_>| matrix.cols() == width && !matrix.is_sparse();
        let positions =
            self.positions.is_none_or(|of| table(&of.matrix) && of.matrix.rows() >= context);
        let input = match &self.input {
            Input::Tokens { embedding, types, .. } => {
                table(&embedding.matrix) && types.is_none_or(|types| table(&types.matrix))
            }
            Input::Features { linear, class, picture } => {
                let picture = picture.is_none_or(|picture| {
                    let rows = picture.patches() + usize::from(class.is_some());
                    linear.matrix.cols() == picture.numbers()
                        && picture.pixel.len() == 2 * picture.channels
                        && rows == context
                });
                linear.is(width, linear.matrix.cols())
                    && class.is_none_or(|class| class.len() == width)
                    && picture
            }
            Input::Queries(queries) => table(&queries.matrix) && queries.matrix.rows() == context,
            Input::States => true,
        };
        if positions && input && fits(self.norm.as_ref(), end) {
            Ok(())
        } else {
            Err(StackProblem::Shape)
        }
    }
}

impl Block<InPlace<'_>> {
    /// `inner` is what the record says of a feed-forward's width, `width` the stream's and `states`
    /// that of the states of the stack before.
    pub(crate) fn check_shapes(
        &self,
        inner: usize,
        width: usize,
        states: usize,
    ) -> Result<(), BlockProblem> {
        let is = |of: &Option<Linear<'_>>, rows, cols| of.is_some_and(|of| of.is(rows, cols));
        let mixed = match &self.operation {
            Operation::Attention(a) => {
                let queries = a.queries().end;
                let shapes = match a.is_cross() {
                    false => is(&self.input, queries + a.kv_rows(), width),
                    // A norm of keys or rotation would belong to the source's positions.
                    true => {
                        states > 0
                            && is(&self.input, queries, width)
                            && is(&self.states, a.kv_rows(), states)
                            && a.key_norm.is_none()
                            && a.rope.is_none()
                    }
                };
                a.check(shapes)?;
                queries
            }
            Operation::FeedForward { gated, .. } => {
                if !is(&self.input, inner * (1 + usize::from(*gated)), width) {
                    return Err(BlockProblem::Shape);
                }
                inner
            }
            Operation::Projection => width,
        };
        let shapes = fits(self.norm.as_ref(), width)
            && (self.norm.is_some() || (FAMILIES && !matches!(self.residual, Residual::Post(_))))
            && (self.replaces() || self.output.matrix.rows() == width)
            && self.output.is(self.output.matrix.rows(), mixed)
            && (!self.is_projection() || self.replaces());
        if shapes && fits(self.stream_norm(), width) { Ok(()) } else { Err(BlockProblem::Shape) }
    }
}

impl Attention<InPlace<'_>> {
    /// Checks what heads have, where the products' shapes fit.
    fn check(&self, shapes: bool) -> Result<(), BlockProblem> {
        let head = |norm: &Option<Norm<&[f32]>>| {
            norm.is_none_or(|norm| norm.weight.len() == self.head_dim)
        };
        if !shapes || !head(&self.query_norm) || !head(&self.key_norm) {
            return Err(BlockProblem::Shape);
        }
        if let Some(relative) = self.relative
            && FAMILIES
        {
            let each = relative.len() / self.heads.max(1);
            if each * self.heads != relative.len() || each.is_multiple_of(2) {
                return Err(BlockProblem::Relative);
            }
        }
        if self.rope.is_some_and(|rope| rope.frequencies.len() * 2 > self.head_dim) {
            return Err(BlockProblem::Rope);
        }
        Ok(())
    }
}
