//! Tokenizers, in both directions.

use core::ffi::c_char;

use kinglet::tokenizer::{
    Detokenizer, EncodeError, EncodeOptions, Tokenizer, TokenizerError, max_tokens, scratch_words,
};

use crate::caller::{Caller, Object, Out, apart, extent};
use crate::error::Error;
use crate::message::kinglet_error;
use crate::model::kinglet_model;
use crate::status::kinglet_status;
use kinglet_status::KINGLET_OK;

/// The id that stands for a token that a tokenizer does not have.
pub const KINGLET_NO_TOKEN: u32 = u32::MAX;
/// Put the model's special tokens before and after the text, as its template says.
pub const KINGLET_ADD_SPECIAL: u32 = 1;
/// Take the names of special tokens in the text for these tokens. A text from outside should be
/// encoded without it.
pub const KINGLET_MATCH_SPECIAL: u32 = 2;

/// A tokenizer in the bytes of a model's file.
#[repr(C)]
#[derive(Debug)]
pub struct kinglet_tokenizer {
    tag: u64,
    opaque: [usize; 120],
}

impl Object for kinglet_tokenizer {
    type Value = Tokenizer<'static>;
    const NAME: &'static str = "tokenizer";
    const TAG: u64 = 0x4b4c_544f_31d8_5ac1;
}

/// Opens the tokenizer of the text that goes into the model. The model's bytes must stay, the model
/// object need not.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_tokenizer_open(
    tokenizer: *mut kinglet_tokenizer,
    model: *const kinglet_model,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let open = || {
        let place = caller.place(tokenizer)?;
        place.put(found(caller.shared(model)?.tokenizer())?);
        Ok(KINGLET_OK)
    };
    caller.status(open(), error)
}

/// Opens the tokenizer of the text that comes out: that of the text that goes in, unless the file
/// has another.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_tokenizer_open_target(
    tokenizer: *mut kinglet_tokenizer,
    model: *const kinglet_model,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let open = || {
        let place = caller.place(tokenizer)?;
        place.put(found(caller.shared(model)?.target_tokenizer())?);
        Ok(KINGLET_OK)
    };
    caller.status(open(), error)
}

fn found(
    tokenizer: Option<Result<Tokenizer<'static>, TokenizerError>>,
) -> Result<Tokenizer<'static>, Error> {
    Ok(tokenizer.ok_or(Error::Missing("tokenizer"))??)
}

/// What a tokenizer is. A token it does not have is KINGLET_NO_TOKEN.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kinglet_tokenizer_information {
    /// Tokens are below this number.
    pub vocab: usize,
    /// The token that begins a text.
    pub bos: u32,
    /// The token for unknown characters.
    pub unk: u32,
    /// The token that pads a batch.
    pub pad: u32,
    /// Whether texts must be brought into Unicode normal form C before they are encoded.
    pub expects_nfc: bool,
}

/// Says what a tokenizer is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_tokenizer_info(
    tokenizer: *const kinglet_tokenizer,
    information: *mut kinglet_tokenizer_information,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let info = || {
        let tokenizer = caller.shared(tokenizer)?;
        caller.out(information, "information")?.set(kinglet_tokenizer_information {
            vocab: tokenizer.vocab_len(),
            bos: tokenizer.bos().unwrap_or(KINGLET_NO_TOKEN),
            unk: tokenizer.unk().unwrap_or(KINGLET_NO_TOKEN),
            pad: tokenizer.pad().unwrap_or(KINGLET_NO_TOKEN),
            expects_nfc: tokenizer.expects_nfc(),
        });
        Ok(KINGLET_OK)
    };
    caller.status(info(), error)
}

/// Says whether a token ends a generation.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_tokenizer_is_eos(
    tokenizer: *const kinglet_tokenizer,
    token: u32,
    is_eos: *mut bool,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let ask = || {
        let to = caller.out(is_eos, "is_eos")?;
        to.set(caller.shared(tokenizer)?.is_eos(token));
        Ok(KINGLET_OK)
    };
    caller.status(ask(), error)
}

/// Looks up an added token by its name as it stands in a text, such as "<|im_end|>";
/// KINGLET_NO_TOKEN if there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_tokenizer_added_token(
    tokenizer: *const kinglet_tokenizer,
    name: *const c_char,
    bytes: usize,
    token: *mut u32,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let look_up = || {
        let to = caller.out(token, "token")?;
        let name = utf8(caller.slice(name.cast(), bytes, "name")?)?;
        to.set(caller.shared(tokenizer)?.added_token(name).unwrap_or(KINGLET_NO_TOKEN));
        Ok(KINGLET_OK)
    };
    caller.status(look_up(), error)
}

fn utf8(bytes: &[u8]) -> Result<&str, Error> {
    core::str::from_utf8(bytes).map_err(|error| Error::Utf8 { at: error.valid_up_to() })
}

/// Words of scratch that are enough to encode any text of this many bytes. Ordinary texts need much
/// less: as much as for their longest word.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_scratch_words(text_bytes: usize) -> usize {
    scratch_words(text_bytes)
}

/// Tokens that any text of this many bytes has at most. Ordinary texts have one for three or four
/// bytes.
#[unsafe(no_mangle)]
pub extern "C" fn kinglet_max_tokens(text_bytes: usize) -> usize {
    max_tokens(text_bytes)
}

/// Encodes a text of `bytes` bytes, which need not be terminated. `flags` are KINGLET_ADD_SPECIAL
/// and KINGLET_MATCH_SPECIAL.
///
/// On success `count` is the number of tokens. With KINGLET_ERROR_SCRATCH it is the words of
/// scratch that would have been enough, with KINGLET_ERROR_TOO_SMALL the tokens that the text has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_tokenizer_encode(
    tokenizer: *const kinglet_tokenizer,
    text: *const c_char,
    bytes: usize,
    flags: u32,
    scratch: *mut u32,
    scratch_words: usize,
    tokens: *mut u32,
    capacity: usize,
    count: *mut usize,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let encode = || {
        let out = caller.out(count, "count")?;
        let tokenizer = caller.shared(tokenizer)?;
        if flags & !(KINGLET_ADD_SPECIAL | KINGLET_MATCH_SPECIAL) != 0 {
            return Err(Error::Value { what: "flags", found: flags as i32 });
        }
        let extents = [
            extent(text, bytes, "text")?,
            extent(scratch, scratch_words, "scratch")?,
            extent(tokens, capacity, "tokens")?,
        ];
        apart(&extents[1], "scratch", &[&extents[0], &extents[2]])?;
        apart(&extents[2], "tokens", &[&extents[0]])?;
        let text = utf8(caller.slice(text.cast(), bytes, "text")?)?;
        let scratch = caller.slice_mut(scratch, scratch_words, "scratch")?;
        let tokens = caller.slice_mut(tokens, capacity, "tokens")?;
        let options = EncodeOptions {
            add_special: flags & KINGLET_ADD_SPECIAL != 0,
            match_special: flags & KINGLET_MATCH_SPECIAL != 0,
        };
        let encoded = tokenizer.encode_with(text, options, scratch, tokens);
        if let Ok(number)
        | Err(
            EncodeError::ScratchTooSmall { needed: number }
            | EncodeError::OutputTooSmall { needed: number },
        ) = encoded
        {
            out.set(number);
        }
        encoded?;
        Ok(KINGLET_OK)
    };
    caller.status(encode(), error)
}

/// Turns tokens into text, one at a time, never a part of a character.
#[repr(C)]
#[derive(Debug)]
pub struct kinglet_detokenizer {
    tag: u64,
    opaque: [usize; 4],
}

impl Object for kinglet_detokenizer {
    type Value = Detokenizer;
    const NAME: &'static str = "detokenizer";
    const TAG: u64 = 0x4b4c_4445_94a7_0e6b;
}

/// Opens a detokenizer for the start of a text: what the tokenizer puts before a text is taken away
/// again. With a null `tokenizer` the tokens continue a text, such as generated ones after a
/// prompt, and nothing is taken away.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_detokenizer_open(
    detokenizer: *mut kinglet_detokenizer,
    tokenizer: *const kinglet_tokenizer,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let open = || {
        let place = caller.place(detokenizer)?;
        place.put(match tokenizer.is_null() {
            true => Detokenizer::continuing(),
            false => Detokenizer::new(caller.shared(tokenizer)?),
        });
        Ok(KINGLET_OK)
    };
    caller.status(open(), error)
}

/// Writes the text that becomes certain with the next token, which may be none, and terminates it.
/// `length` is its bytes without the terminator, as a token may contain a NUL of its own.
///
/// With KINGLET_ERROR_TOO_SMALL `length` is what the text has, and the token counts as not given:
/// give it again with a capacity of one more. 64 is enough for the tokens of most vocabularies.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_detokenizer_push(
    detokenizer: *mut kinglet_detokenizer,
    tokenizer: *const kinglet_tokenizer,
    token: u32,
    text: *mut c_char,
    capacity: usize,
    length: *mut usize,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let push = || {
        let out = caller.out(length, "length")?;
        let text = caller.slice_mut(text.cast::<u8>(), capacity, "text")?;
        let (detokenizer, tokenizer) = (caller.exclusive(detokenizer)?, caller.shared(tokenizer)?);
        let mut next = detokenizer.clone();
        write(next.push(tokenizer, token), text, &out)?;
        *detokenizer = next;
        Ok(KINGLET_OK)
    };
    caller.status(push(), error)
}

/// Ends the text: writes U+FFFD if a character was left incomplete, as kinglet_detokenizer_push
/// does. The next token starts a new text, of which nothing is taken away.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kinglet_detokenizer_finish(
    detokenizer: *mut kinglet_detokenizer,
    text: *mut c_char,
    capacity: usize,
    length: *mut usize,
    error: *mut kinglet_error,
) -> kinglet_status {
    // SAFETY: this function's caller keeps the contract in the header's first comment.
    let caller = unsafe { Caller::trust() };
    let finish = || {
        let out = caller.out(length, "length")?;
        let text = caller.slice_mut(text.cast::<u8>(), capacity, "text")?;
        let detokenizer = caller.exclusive(detokenizer)?;
        let mut next = detokenizer.clone();
        write(next.finish(), text, &out)?;
        *detokenizer = next;
        Ok(KINGLET_OK)
    };
    caller.status(finish(), error)
}

/// Writes pieces of text and a terminator, and how many bytes the pieces are, whether they fit or
/// not.
fn write<'t>(
    pieces: impl IntoIterator<Item = &'t str>,
    text: &mut [u8],
    length: &Out<usize>,
) -> Result<(), Error> {
    let mut end = 0;
    for piece in pieces {
        if let Some(to) = text.get_mut(end..end + piece.len()) {
            to.copy_from_slice(piece.as_bytes());
        }
        end += piece.len();
    }
    length.set(end);
    let found = text.len();
    let terminator = text.get_mut(end);
    *terminator.ok_or(Error::TooSmall { what: "text", needed: end + 1, found })? = 0;
    Ok(())
}
