//! What the first stack reads, and how tokens, numbers and pictures become its rows.

use kinglet_kernels::Isa;

use super::arena::Arena;
use super::error::RunError;
use super::rounding::{quantize_row, rows_of};
use kinglet_model::{FAMILIES, InPlace, Input, Inputs, Picture, Stack};

/// A source.
///
/// Padding is left out, not marked: nothing looks at a position after the last one given.
#[derive(Clone, Copy, Debug)]
pub enum Source<'s> {
    /// Tokens, all of type 0.
    Tokens(&'s [u32]),
    /// Tokens, and the type of each (the second of two sentences has type 1).
    Typed(&'s [u32], &'s [u8]),
    /// Rows of numbers, one after the other.
    Features(&'s [f32]),
    /// The bytes of a picture: rows, pixels, channels.
    Pixels(&'s [u8]),
    /// Numbers or bytes that follow from a formula, for so many rows (those of a class token not
    /// counted): to check a device without a picture at hand. Byte `i` is the highest of the 32
    /// bits of `i * 2654435769`; a number is `byte / 128 - 1`.
    Pattern(usize),
}

fn pattern(i: usize) -> u8 {
    ((i as u32).wrapping_mul(2_654_435_769) >> 24) as u8
}

/// Checks a source and puts it where the first step of a run looks for it: token rows into the
/// stream, features into quantized rows. Returns the rows of the run, and whether they are
/// features.
pub(super) fn read(
    stack: &Stack<InPlace<'_>>,
    source: Source<'_>,
    most: usize,
    isa: Isa,
    arena: &mut Arena<'_>,
) -> Result<(usize, bool), RunError> {
    let (linear, class, picture) = match (&stack.input, source) {
        (Input::Tokens { .. }, Source::Tokens(tokens)) => {
            return read_tokens(stack, tokens, &[], most, isa, arena);
        }
        (Input::Tokens { .. }, Source::Typed(tokens, types)) => {
            return read_tokens(stack, tokens, types, most, isa, arena);
        }
        (Input::Tokens { .. }, _) => return Err(RunError::Reads { what: "tokens" }),
        (Input::Features { linear, class, picture }, _) if FAMILIES => (linear, class, picture),
        _ => return Err(RunError::Reads { what: "nothing" }),
    };
    let cols = linear.matrix.cols();
    let front = usize::from(class.is_some());
    let most = most.saturating_sub(front);
    let rows = match (source, picture) {
        (Source::Features(numbers), None) => {
            if numbers.is_empty() || numbers.len() % cols != 0 || numbers.len() / cols > most {
                return Err(RunError::Source { most: most * cols, found: numbers.len() });
            }
            numbers.len() / cols
        }
        (Source::Pixels(bytes), Some(picture)) => {
            if bytes.len() != picture.bytes() || picture.patches() > most {
                return Err(RunError::Source { most: picture.bytes(), found: bytes.len() });
            }
            picture.patches()
        }
        (Source::Pattern(rows), None) if (1..=most).contains(&rows) => rows,
        (Source::Pattern(rows), Some(picture)) if rows == picture.patches() && rows <= most => rows,
        (Source::Pattern(found), _) => return Err(RunError::Source { most, found }),
        (_, None) => return Err(RunError::Reads { what: "features" }),
        (_, Some(_)) => return Err(RunError::Reads { what: "pictures" }),
    };
    let mut x =
        rows_of((arena.codes, arena.sums, arena.scales), linear.inputs, cols, rows, 0..rows);
    for row in 0..rows {
        let numbers = &mut arena.wide[..cols];
        match (source, picture) {
            (Source::Features(all), _) => numbers.copy_from_slice(&all[row * cols..][..cols]),
            (Source::Pixels(bytes), Some(picture)) => patch(picture, row, |at| bytes[at], numbers),
            (_, Some(picture)) => patch(picture, row, pattern, numbers),
            (_, None) => {
                let each = numbers.iter_mut().enumerate();
                each.for_each(|(i, x)| *x = f32::from(pattern(row * cols + i)) / 128.0 - 1.0);
            }
        }
        quantize_row(isa, numbers, linear.inputs, &mut x, row);
    }
    Ok((rows + front, true))
}

/// The numbers of patch `index`: rows, pixels, channels.
fn patch(picture: &Picture<&[f32]>, index: usize, byte: impl Fn(usize) -> u8, numbers: &mut [f32]) {
    let across = picture.width / picture.patch;
    let (top, left) = (index / across * picture.patch, index % across * picture.patch);
    let (scales, offsets) = picture.pixel.split_at(picture.channels);
    let row = picture.patch * picture.channels;
    for (y, to) in numbers.chunks_exact_mut(row).enumerate() {
        let from = ((top + y) * picture.width + left) * picture.channels;
        for (i, to) in to.iter_mut().enumerate() {
            let channel = i % picture.channels;
            *to = f32::from(byte(from + i)) * scales[channel] + offsets[channel];
        }
    }
}

fn read_tokens(
    stack: &Stack<InPlace<'_>>,
    tokens: &[u32],
    types: &[u8],
    most: usize,
    isa: Isa,
    arena: &mut Arena<'_>,
) -> Result<(usize, bool), RunError> {
    if tokens.is_empty() || tokens.len() > most {
        return Err(RunError::Source { most, found: tokens.len() });
    }
    check_tokens(stack, tokens)?;
    if let Input::Tokens { types: table, .. } = &stack.input {
        let known = table.map_or(1, |table| table.matrix.rows());
        let bad = types.iter().position(|&t| usize::from(t) >= known);
        if !types.is_empty() && types.len() != tokens.len() {
            return Err(RunError::Source { most: tokens.len(), found: types.len() });
        }
        if let Some(index) = bad {
            return Err(RunError::Token { index, token: types[index].into(), vocab: known });
        }
    }
    embed(stack, tokens, types, isa, arena, |row| row);
    Ok((tokens.len(), false))
}

/// Whether the stack reads tokens and has all of these.
pub(super) fn check_tokens(stack: &Stack<InPlace<'_>>, tokens: &[u32]) -> Result<(), RunError> {
    let Input::Tokens { embedding, .. } = &stack.input else {
        return Err(RunError::Reads { what: "no tokens" });
    };
    let vocab = embedding.matrix.rows();
    match tokens.iter().position(|&t| t as usize >= vocab) {
        Some(index) => Err(RunError::Token { index, token: tokens[index], vocab }),
        None => Ok(()),
    }
}

/// The rows of tokens that are known to exist, into the stream.
pub(super) fn embed(
    stack: &Stack<InPlace<'_>>,
    tokens: &[u32],
    types: &[u8],
    isa: Isa,
    arena: &mut Arena<'_>,
    position: impl Fn(usize) -> usize,
) {
    let Input::Tokens { embedding, scale, types: table } = &stack.input else { return };
    let (embedding, inputs) = (&embedding.matrix, embedding.inputs);
    let rows = arena.residual.chunks_exact_mut(embedding.cols()).zip(tokens);
    for (row, (to, &token)) in rows.enumerate() {
        embedding.dequantize_row(token as usize, to);
        if inputs == Inputs::Transformed {
            isa.transform(to);
        }
        if !FAMILIES {
            continue;
        }
        if *scale != 1.0 {
            to.iter_mut().for_each(|x| *x *= scale);
        }
        if let Some(table) = table {
            table.matrix.add_row(types.get(row).copied().unwrap_or(0).into(), to);
        }
        if let Some(positions) = &stack.positions {
            positions.matrix.add_row(position(row), to);
        }
    }
}
