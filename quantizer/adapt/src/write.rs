//! The file again with another interface: every other tensor's bytes are copied as they lie, and so
//! are tokenizers and metadata; the golden sequences are answered anew. It is written beside its
//! target and renamed when it is whole, so the target may be the file itself.
//!
//! A tensor of the new interface takes the place of the old one it stands for, unless something
//! outside of the interface uses that, too. An interface of the same shape and formats thus leaves
//! the file's layout as it was.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use kinglet::Model;
use kinglet_model::layout::{BlockRecord, ModelRecord, NONE, StackRecord, input, section};
use kinglet_model::lowering::{Lower, Part, Unstorable, lower};

use super::AdaptError;
use super::interface::{Interface, Stage};
use kinglet_model::write::{Finished, Kind, Outline, WriteError, Writer, folder};
use kinglet_quantize::rounding::{Rounded, RoundedBlock, RoundedLinear, assembled, pack};
use kinglet_quantize::{Question, add_golden, tensor_name};
use kinglet_reference::{Inputs, NormWeights};

/// A tensor of the new file.
enum Piece {
    /// That of the old one with this number.
    Old(u32),
    New {
        name: String,
        kind: Kind,
        rows: usize,
        cols: usize,
        inputs: Inputs,
        bytes: Vec<u8>,
    },
    /// Nothing uses it any more.
    Gone,
}

/// The new file, but for the interface.
struct Rewrite<'m> {
    model: &'m Model<'m>,
    pieces: Vec<Piece>,
    /// Tensors that something outside of the interface uses.
    others: HashSet<u32>,
}

/// Writes the new file, under a temporary name. Also returns how many tensors are the old ones.
pub(super) fn write(
    model: &Model<'_>,
    interface: &Interface,
    target: &Path,
) -> Result<(Finished, usize), AdaptError> {
    let record = model.record();
    let last = record.stacks - 1;
    let mut rewrite = Rewrite::new(model, interface)?;
    let (mut stacks, mut blocks) = (vec![], vec![]);
    let old_blocks = |stack: u32| -> Result<Vec<BlockRecord>, AdaptError> {
        let (first, end) = model.stack(stack)?.blocks;
        (first..end).map(|index| Ok(model.record_of_block(index)?)).collect()
    };
    stacks.push(model.record_of_stack(0)?);
    blocks.extend(old_blocks(0)?);
    for (number, stage) in (1..).zip(&interface.stages) {
        let (stack, of_stack) = rewrite.stage(number, stage)?;
        stacks.push(stack);
        blocks.extend(of_stack);
    }
    let first = model.stack(last)?.blocks.0;
    for (index, mut block) in (first..).zip(old_blocks(last)?) {
        if let Some((_, norm)) = interface.norms.iter().find(|(number, _)| *number == index) {
            (block.norm, block.norm_bias) =
                rewrite.norm("cross attention norm", [block.norm, block.norm_bias], norm);
        }
        blocks.push(block);
    }
    stacks.push(model.record_of_stack(last)?);
    rewrite.finish(record, stacks, blocks, target)
}

impl<'m> Rewrite<'m> {
    fn new(model: &'m Model<'m>, interface: &Interface) -> Result<Self, AdaptError> {
        let mut record = model.record();
        let mut others = HashSet::new();
        let learned = |block: u32| interface.norms.iter().any(|(number, _)| *number == block);
        for number in [0, record.stacks - 1] {
            let stack = model.stack(number)?;
            others.extend(model.record_of_stack(number)?.tensors_mut().map(|index| *index));
            for index in stack.blocks.0..stack.blocks.1 {
                let mut block = model.record_of_block(index)?;
                if learned(index) {
                    (block.norm, block.norm_bias) = (NONE, NONE);
                }
                others.extend(block.tensors_mut().map(|index| *index));
            }
        }
        others.extend(record.tensors_mut().map(|index| *index));
        Ok(Self { model, pieces: (0..record.tensors).map(Piece::Old).collect(), others })
    }

    /// Puts a tensor in the place of an old one, or after all.
    fn put(&mut self, old: u32, mut new: Piece) -> u32 {
        let place = self.pieces.get_mut(old as usize).filter(|_| !self.others.contains(&old));
        if let Some(place @ Piece::Old(_)) = place {
            if let (Piece::New { name, .. }, Ok(tensor)) = (&mut new, self.model.tensor(old)) {
                *name = self.model.tensor_name(&tensor.record).to_owned();
            }
            *place = new;
            return old;
        }
        self.pieces.push(new);
        self.pieces.len() as u32 - 1
    }

    fn vector(&mut self, old: u32, name: String, numbers: Option<&[f32]>) -> u32 {
        let Some(numbers) = numbers else { return NONE };
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let (kind, cols, inputs) = (Kind::F32, numbers.len(), Inputs::Rounded);
        self.put(old, Piece::New { name, kind, rows: 1, cols, inputs, bytes })
    }

    fn norm(&mut self, name: &str, old: [u32; 2], norm: &NormWeights) -> (u32, u32) {
        let weight = self.vector(old[0], name.to_owned(), Some(&norm.weight));
        (weight, self.vector(old[1], format!("{name} bias"), norm.bias.as_deref()))
    }

    /// A matrix and its bias.
    fn product(
        &mut self,
        name: &str,
        old: [u32; 2],
        of: &RoundedLinear,
    ) -> Result<(u32, u32), AdaptError> {
        let mut bytes = vec![];
        pack::write(of, &mut |more| {
            bytes.extend_from_slice(more);
            Ok(())
        })?;
        let (kind, rows) = (pack::kind(of), of.rows.len());
        let piece = Piece::New {
            name: name.to_owned(),
            kind,
            rows,
            cols: of.cols,
            inputs: of.inputs,
            bytes,
        };
        let matrix = self.put(old[0], piece);
        Ok((matrix, self.vector(old[1], format!("{name} bias"), of.bias.as_deref())))
    }

    fn stage(
        &mut self,
        number: u32,
        stage: &Stage,
    ) -> Result<(StackRecord, Vec<BlockRecord>), AdaptError> {
        let rounded = stage.rounded()?;
        let mut record = stage.record;
        let prefix = format!("stack {number}");
        if let Some(queries) = &rounded.queries {
            (record.embedding, _) =
                self.product(&format!("{prefix} queries"), [record.embedding, NONE], queries)?;
            debug_assert_eq!(record.input, input::QUERIES);
        }
        let mut blocks = vec![];
        for (part, products) in stage.parts.iter().zip(&rounded.parts) {
            let block = assembled(&part.weights, products.clone());
            let (prefix, old) = (&prefix, &part.old);
            let mut tensors = Tensors { rewrite: self, prefix, old, block: &block };
            blocks.push(lower(&block, &mut tensors)?);
        }
        if let Some(norm) = &stage.norm {
            let old = [record.norm, record.norm_bias];
            (record.norm, record.norm_bias) = self.norm(&format!("{prefix} norm"), old, norm);
        }
        Ok((record, blocks))
    }

    /// Writes everything.
    fn finish(
        mut self,
        mut record: ModelRecord,
        mut stacks: Vec<StackRecord>,
        mut blocks: Vec<BlockRecord>,
        target: &Path,
    ) -> Result<(Finished, usize), AdaptError> {
        let model = self.model;
        self.drop_unused(&stacks, &blocks)?;
        let mut numbers = vec![NONE; self.pieces.len()];
        let there =
            self.pieces.iter().enumerate().filter(|(_, piece)| !matches!(piece, Piece::Gone));
        there.zip(0..).for_each(|((place, _), number)| numbers[place] = number);
        let renumber =
            |index: &mut u32| *index = numbers.get(*index as usize).copied().unwrap_or(NONE);
        _ = record.tensors_mut().map(renumber);
        stacks.iter_mut().for_each(|stack| _ = stack.tensors_mut().map(renumber));
        blocks.iter_mut().for_each(|block| _ = block.tensors_mut().map(renumber));

        let mut outline = Outline::new(record);
        (outline.stacks, outline.blocks) = (stacks, blocks);
        outline.tokenizer = model.section(section::TOKENIZER).to_vec();
        outline.target_tokenizer = model.section(section::TARGET_TOKENIZER).to_vec();
        outline.metadata =
            model.metadata().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let questions: Vec<Question> =
            model.golden().map(|golden| Question::from(&golden)).collect();
        outline.golden = questions.iter().map(Question::tokens).collect();
        for piece in &self.pieces {
            match piece {
                Piece::Gone => {}
                Piece::New { name, kind, rows, cols, inputs, .. } => {
                    let index = outline.tensor(name, *kind, *rows, *cols)?;
                    outline.inputs(index, *inputs);
                }
                Piece::Old(index) => _ = outline.tensor_of(model, &model.tensor(*index)?)?,
            }
        }
        let mut writer = Writer::create(target, folder(target), outline)?;
        let mut kept = 0;
        for piece in &self.pieces {
            let bytes = match piece {
                Piece::Gone => continue,
                Piece::New { bytes, .. } => bytes,
                Piece::Old(index) => {
                    kept += 1;
                    model.tensor(*index)?.bytes
                }
            };
            writer.tensor::<WriteError>(|put| put(bytes))?;
        }
        let mut finished = writer.finish()?;
        add_golden(&mut finished, &questions)?;
        Ok((finished, kept))
    }

    /// Drops what the old interface used and nothing uses now.
    fn drop_unused(
        &mut self,
        stacks: &[StackRecord],
        blocks: &[BlockRecord],
    ) -> Result<(), AdaptError> {
        let mut used: HashSet<u32> = self.others.clone();
        stacks
            .iter()
            .for_each(|stack| used.extend(stack.clone().tensors_mut().map(|index| *index)));
        blocks
            .iter()
            .for_each(|block| used.extend(block.clone().tensors_mut().map(|index| *index)));
        for number in 1..self.model.stacks() - 1 {
            let stack = self.model.stack(number)?;
            let mut record = self.model.record_of_stack(number)?;
            let mut old: Vec<u32> = record.tensors_mut().map(|index| *index).into();
            for index in stack.blocks.0..stack.blocks.1 {
                let mut record = self.model.record_of_block(index)?;
                old.extend(record.tensors_mut().map(|index| *index));
            }
            for index in old.into_iter().filter(|index| !used.contains(index)) {
                if let Some(piece) = self.pieces.get_mut(index as usize) {
                    *piece = Piece::Gone;
                }
            }
        }
        Ok(())
    }
}

/// The tensors of a block of the interface on their way into the new file.
struct Tensors<'t, 'm> {
    rewrite: &'t mut Rewrite<'m>,
    prefix: &'t str,
    /// The block that it takes the place of.
    old: &'t BlockRecord,
    block: &'t RoundedBlock,
}

impl Tensors<'_, '_> {
    /// The index of the old tensor, and the name of a new one.
    fn place(&self, part: Part) -> (u32, String) {
        let old = self.old;
        let index = match part {
            Part::Norm => old.norm,
            Part::NormBias => old.norm_bias,
            Part::StreamNorm => old.stream_norm,
            Part::StreamNormBias => old.stream_norm_bias,
            Part::Input => old.input,
            Part::InputBias => old.input_bias,
            Part::States => old.states,
            Part::StatesBias => old.states_bias,
            Part::Output => old.output,
            Part::OutputBias => old.output_bias,
            Part::QueryNorm => old.query_norm,
            Part::KeyNorm => old.key_norm,
            Part::Frequencies => old.rope,
            Part::Relative => old.relative,
        };
        (index, format!("{} {}", self.prefix, tensor_name(self.block, part)))
    }

    /// What is not learned stays where it is.
    fn kept(&self, part: Part) -> Option<u32> {
        Some(self.place(part).0).filter(|&index| index != NONE)
    }
}

impl Lower<Rounded> for Tensors<'_, '_> {
    type Error = AdaptError;

    fn linear(&mut self, part: Part, of: &RoundedLinear) -> Result<(u32, u32), AdaptError> {
        let (matrix, name) = self.place(part);
        let bias = match part {
            Part::Input => Part::InputBias,
            Part::States => Part::StatesBias,
            _ => Part::OutputBias,
        };
        self.rewrite.product(&name, [matrix, self.place(bias).0], of)
    }

    fn vector(&mut self, part: Part, of: &Vec<f32>) -> Result<u32, AdaptError> {
        if matches!(part, Part::QueryNorm | Part::KeyNorm)
            && let Some(index) = self.kept(part)
        {
            return Ok(index);
        }
        let (old, name) = self.place(part);
        Ok(self.rewrite.vector(old, name, Some(of)))
    }

    fn zeros(&mut self, part: Part, like: &Vec<f32>) -> Result<u32, AdaptError> {
        self.vector(part, &vec![0.0; like.len()])
    }

    fn frequencies(&mut self, _: &Vec<f64>) -> Result<u32, AdaptError> {
        Ok(self.kept(Part::Frequencies).unwrap_or(NONE))
    }

    fn relative(&mut self, _: &Arc<Vec<f32>>) -> Result<u32, AdaptError> {
        Ok(self.kept(Part::Relative).unwrap_or(NONE))
    }

    fn cols(&self, of: &RoundedLinear) -> usize {
        of.cols
    }
}

impl From<Unstorable> for AdaptError {
    fn from(what: Unstorable) -> Self {
        Self::Golden(what.into())
    }
}
