//! What the normalizer, pre-tokenizer, decoder and post-processor of `tokenizer.json` come to in
//! the runtime's terms.
//!
//! Invariant: a combination is accepted only if the runtime follows it exactly; everything else is
//! refused by name.

use kinglet_tokenizer::layout::{
    Digits, Kind, MAX_LIST, Pattern, Prefix, SPACE_MARK, Spaces, Strip, Words,
};

use super::error::TokenizerImportError as Error;
use super::json::{
    self, Decoder, Normalizer, Piece, PostProcessor, PreTokenizer, TokenizerJson, steps,
};
use super::modes::Pipeline;

/// The regexes of `Split` that the runtime knows, and the longest number each allows.
const SPLITS: [(&str, u8); 2] = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        3,
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        1,
    ),
];

pub(super) const NORMALIZER: &str = "tokenizer.json: normalizer";
pub(super) const PRE_TOKENIZER: &str = "tokenizer.json: pre_tokenizer";
const POST_PROCESSOR: &str = "tokenizer.json: post_processor";
pub(super) const DECODER: &str = "tokenizer.json: decoder";

/// Reads all four components; takes them out of `file`.
pub(super) fn read(file: &mut TokenizerJson) -> Result<Pipeline, Error> {
    let mut pipeline = Pipeline::plain(Kind::SentencePiece);
    normalizer(file, &mut pipeline)?;
    pre_tokenizer(file, &mut pipeline)?;
    decoder(file, &mut pipeline)?;
    post_processor(file, &mut pipeline)?;
    Ok(pipeline)
}

fn normalizer(file: &mut TokenizerJson, to: &mut Pipeline) -> Result<(), Error> {
    let supported = ["NFC", "Prepend", "Replace"];
    let found: Vec<Normalizer> =
        steps(file.normalizer.take(), NORMALIZER, "normalizers", &supported)?;
    let mark = SPACE_MARK.to_string();
    for step in found {
        match step {
            // The host normalises before anything else, so NFC must be the first step; once is as
            // good as twice.
            Normalizer::Nfc if to.spaces == Spaces::Keep && to.prefix == Prefix::Never => {
                to.nfc = true
            }
            Normalizer::Prepend { prepend } if prepend == mark && to.prefix == Prefix::Never => {
                to.prefix = Prefix::Normalizer;
            }
            Normalizer::Replace { pattern: json::Pattern::String(from), content }
                if from == " " && content == mark =>
            {
                to.spaces = Spaces::Normalizer;
            }
            Normalizer::Nfc => {
                return Err(Error::unsupported(
                    NORMALIZER,
                    "NFC after other steps",
                    "NFC as first step",
                ));
            }
            Normalizer::Prepend { prepend } => {
                let found = format!("Prepend of {prepend:?}, or of a second prefix");
                return Err(Error::unsupported(NORMALIZER, found, "one Prepend of \"\u{2581}\""));
            }
            Normalizer::Replace { .. } => {
                let supported = "Replace of \" \" by \"\u{2581}\"";
                return Err(Error::unsupported(NORMALIZER, "another Replace", supported));
            }
        }
    }
    Ok(())
}

fn pre_tokenizer(file: &mut TokenizerJson, to: &mut Pipeline) -> Result<(), Error> {
    let supported = ["ByteLevel", "Digits", "Split", "Metaspace"];
    let found: Vec<PreTokenizer> =
        steps(file.pre_tokenizer.take(), PRE_TOKENIZER, "pretokenizers", &supported)?;
    match found.as_slice() {
        [] => Ok(()),
        [PreTokenizer::Metaspace { replacement, add_prefix_space, prepend_scheme, split }] => {
            if to.spaces != Spaces::Keep || to.prefix != Prefix::Never {
                let supported =
                    "Metaspace without a normalizer, or the normalizer without Metaspace";
                return Err(Error::unsupported(
                    PRE_TOKENIZER,
                    "Metaspace after a normalizer of spaces",
                    supported,
                ));
            }
            to.prefix = metaspace(
                PRE_TOKENIZER,
                *replacement,
                *add_prefix_space,
                prepend_scheme.as_deref(),
            )?;
            to.spaces = Spaces::PreTokenizer;
            to.words = if split.unwrap_or(true) { Words::EachMark } else { Words::Whole };
            Ok(())
        }
        // No space is left for it to split at.
        [PreTokenizer::Split { pattern: json::Pattern::String(at), invert: false, .. }]
            if at == " " && to.spaces == Spaces::Normalizer =>
        {
            Ok(())
        }
        [first @ .., PreTokenizer::ByteLevel { add_prefix_space, use_regex }] => {
            if to.spaces != Spaces::Keep || to.prefix != Prefix::Never {
                let supported = "no normalizer, or NFC";
                return Err(Error::unsupported(
                    NORMALIZER,
                    "one of spaces before ByteLevel",
                    supported,
                ));
            }
            to.kind = Kind::ByteLevel;
            byte_level(first, *add_prefix_space, use_regex.unwrap_or(true), to)
        }
        _ => {
            let supported =
                "Metaspace alone; ByteLevel alone, after Digits, or after Split; nothing";
            Err(Error::unsupported(PRE_TOKENIZER, "another combination of steps", supported))
        }
    }
}

/// A byte-level pre-tokenizer after the steps `first`.
fn byte_level(
    first: &[PreTokenizer],
    add_prefix_space: bool,
    use_regex: bool,
    to: &mut Pipeline,
) -> Result<(), Error> {
    to.pattern = if use_regex { Pattern::Gpt2 } else { Pattern::Whole };
    to.prefix = if add_prefix_space { Prefix::Each } else { Prefix::Never };
    match first {
        [] => return Ok(()),
        [PreTokenizer::Digits { individual_digits }] => {
            to.digits = if *individual_digits { Digits::Individual } else { Digits::Runs };
        }
        [PreTokenizer::Split { pattern: json::Pattern::Regex(regex), behavior, invert }] => {
            let Some((_, max_digits)) = SPLITS.iter().find(|(known, _)| known == regex) else {
                let supported = "the regexes of Llama 3 and of Qwen 2, literally";
                return Err(Error::unsupported(
                    PRE_TOKENIZER,
                    format!("Split by {regex}"),
                    supported,
                ));
            };
            // Both regexes cover the whole text, so all that must not happen is dropping the
            // matches.
            let keeps = behavior == "Isolated" || (behavior == "Removed" && *invert);
            if !keeps || use_regex {
                let supported = "Split with behavior Isolated (or Removed, inverted), then \
                                 ByteLevel with use_regex false";
                return Err(Error::unsupported(PRE_TOKENIZER, "another use of Split", supported));
            }
            to.pattern = Pattern::Cl100k;
            to.max_digits = *max_digits;
        }
        _ => {
            let supported = "ByteLevel alone, after one Digits, or after one Split by a regex";
            return Err(Error::unsupported(
                PRE_TOKENIZER,
                "another combination of steps",
                supported,
            ));
        }
    }
    if add_prefix_space {
        let supported = "add_prefix_space false after other steps";
        return Err(Error::unsupported(
            PRE_TOKENIZER,
            "a prefix space before every piece",
            supported,
        ));
    }
    Ok(())
}

/// The prefix of a Metaspace component; `add_prefix_space` is its older name.
fn metaspace(
    field: &str,
    replacement: char,
    add_prefix_space: Option<bool>,
    scheme: Option<&str>,
) -> Result<Prefix, Error> {
    if replacement != SPACE_MARK {
        return Err(Error::unsupported(
            field,
            format!("Metaspace with {replacement:?}"),
            "Metaspace with \"\u{2581}\"",
        ));
    }
    let prefix = match scheme.unwrap_or("always") {
        "always" => Prefix::Each,
        "first" => Prefix::First,
        "never" => Prefix::Never,
        other => {
            return Err(Error::unsupported(
                field,
                format!("prepend_scheme {other:?}"),
                "always, first, never",
            ));
        }
    };
    if add_prefix_space == Some(false) && prefix != Prefix::Never {
        return Err(Error::bad(
            field,
            "add_prefix_space is false but prepend_scheme is not \"never\"; make them agree",
        ));
    }
    Ok(prefix)
}

fn decoder(file: &mut TokenizerJson, to: &mut Pipeline) -> Result<(), Error> {
    let supported = ["ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"];
    let found: Vec<Decoder> = steps(file.decoder.take(), DECODER, "decoders", &supported)?;
    if to.kind == Kind::ByteLevel {
        return match found.as_slice() {
            [Decoder::ByteLevel {}] => Ok(()),
            _ => Err(Error::unsupported(
                DECODER,
                "not ByteLevel alone",
                "ByteLevel, as the pre-tokenizer is",
            )),
        };
    }
    // Each kind of step has its place; what is left in `rest` at the end is out of place.
    let mut rest = found.as_slice();
    match rest {
        [Decoder::Replace { pattern: json::Pattern::String(from), content }, after @ ..]
            if *from == SPACE_MARK.to_string() && content == " " =>
        {
            (to.marks_to_spaces, rest) = (true, after);
        }
        [Decoder::Metaspace { replacement, add_prefix_space, prepend_scheme }, after @ ..] => {
            let prefix =
                metaspace(DECODER, *replacement, *add_prefix_space, prepend_scheme.as_deref())?;
            to.strip = if prefix == Prefix::Never { Strip::Nothing } else { Strip::FirstToken };
            (to.marks_to_spaces, rest) = (true, after);
        }
        _ => {}
    }
    if let [Decoder::ByteFallback {}, after @ ..] = rest {
        (to.byte_tokens, rest) = (true, after);
    }
    if let [Decoder::Fuse {}, after @ ..] = rest {
        rest = after;
        if let [Decoder::Strip { content: ' ', start: 1, stop: 0 }] = rest
            && to.strip == Strip::Nothing
        {
            (to.strip, rest) = (Strip::OneSpace, &[]);
        }
    }
    if rest.is_empty() && !found.is_empty() {
        return Ok(());
    }
    let supported = "ByteLevel; or Replace of \"\u{2581}\" by \" \" or Metaspace, then \
                     ByteFallback, Fuse, and Strip of one leading space, each optional, in this \
                     order";
    Err(Error::unsupported(DECODER, "missing, or another combination of steps", supported))
}

pub(super) fn post_processor(file: &mut TokenizerJson, to: &mut Pipeline) -> Result<(), Error> {
    let supported = ["ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing"];
    let found: Vec<PostProcessor> =
        steps(file.post_processor.take(), POST_PROCESSOR, "processors", &supported)?;
    let mut seen = false;
    for step in found {
        (to.before, to.after) = match step {
            // It moves offsets only.
            PostProcessor::ByteLevel {} => continue,
            _ if seen => {
                return Err(Error::unsupported(POST_PROCESSOR, "more than one template", "one"));
            }
            PostProcessor::BertProcessing { sep, cls }
            | PostProcessor::RobertaProcessing { sep, cls } => (vec![cls.1], vec![sep.1]),
            PostProcessor::TemplateProcessing { single, special_tokens } => {
                let ids = |name: &String| {
                    let problem = || {
                        format!("the template uses {name:?}, which special_tokens does not define")
                    };
                    special_tokens
                        .get(name)
                        .map(|t| t.ids.clone())
                        .ok_or_else(|| Error::bad(POST_PROCESSOR, problem()))
                };
                template(&single, ids)?
            }
        };
        seen = true;
    }
    if to.before.len().max(to.after.len()) > MAX_LIST as usize {
        let supported = format!("{MAX_LIST} before and after the text");
        return Err(Error::unsupported(
            POST_PROCESSOR,
            "a longer list of special tokens",
            &supported,
        ));
    }
    Ok(())
}

/// The ids before and after the text in the template of a single sequence.
fn template(
    pieces: &[Piece],
    ids: impl Fn(&String) -> Result<Vec<u32>, Error>,
) -> Result<(Vec<u32>, Vec<u32>), Error> {
    let (mut before, mut after, mut texts) = (Vec::new(), Vec::new(), 0);
    for piece in pieces {
        match piece {
            Piece::Sequence { id } if id == "A" => texts += 1,
            Piece::Sequence { .. } => texts = usize::MAX / 2,
            Piece::SpecialToken { id } if texts == 0 => before.extend(ids(id)?),
            Piece::SpecialToken { id } => after.extend(ids(id)?),
        }
    }
    if texts == 1 {
        return Ok((before, after));
    }
    Err(Error::unsupported(
        POST_PROCESSOR,
        "a template without exactly one sequence A",
        "special tokens around one $A",
    ))
}
