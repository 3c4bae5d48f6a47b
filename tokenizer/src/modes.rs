//! The choices that the section's header and its token kinds store as one byte each. Part of
//! [`super::layout`].
//!
//! Invariant: a stored byte is one of the values here or the section is refused (header) or the
//! token unused (kinds).

/// Defines a byte-sized enum with the conversion from its stored byte.
macro_rules! byte_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $value,)+ }
        impl $name {
            #[allow(unused_doc_comments, reason = "an arm takes the attributes of its variant for \
                                                   its cfg")]
            /// The value a stored byte stands for; `None` for a byte this version does not know.
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte { $($(#[$vdoc])* $value => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

byte_enum! {
    /// What tokens are made of.
    Kind {
        /// The bytes of each piece (GPT-2 and its descendants).
        ByteLevel = 0,
        /// The characters of each piece, with [`SPACE_MARK`](super::layout::SPACE_MARK) for spaces
        /// (SentencePiece BPE).
        SentencePiece = 1,
        /// The longest tokens from the front of each word, after the changes of [`Fold`] (BERT).
        /// Only with the feature `families`.
        #[cfg(feature = "families")]
        WordPiece = 2,
    }
}

impl Kind {
    /// Whether this is `Kind::WordPiece`, which some builds do not have.
    pub const fn is_word_piece(self) -> bool {
        self as u8 == 2
    }
}

byte_enum! {
    /// How [`Kind::ByteLevel`] cuts a segment into pieces.
    Pattern {
        /// Not at all.
        Whole = 0,
        /// GPT-2's regex.
        Gpt2 = 1,
        /// The regex of cl100k, Llama 3 and Qwen 2; they differ in `Header::max_digits`.
        Cl100k = 2,
    }
}
byte_enum! {
    /// Whether numbers are cut out before the pattern runs.
    Digits {
        /// No.
        Joined = 0,
        /// Each digit is a piece.
        Individual = 1,
        /// Each run of digits is a piece.
        Runs = 2,
    }
}
byte_enum! {
    /// Where spaces become [`SPACE_MARK`](super::layout::SPACE_MARK).
    Spaces {
        /// Nowhere.
        Keep = 0,
        /// In the normalizer, so patterns of normalized added tokens see the mark.
        Normalizer = 1,
        /// In the pre-tokenizer (Metaspace), after all added tokens were found.
        PreTokenizer = 2,
    }
}
byte_enum! {
    /// Where a space (byte level) or [`SPACE_MARK`](super::layout::SPACE_MARK) (SentencePiece) is
    /// put before the text.
    Prefix {
        /// Nowhere.
        Never = 0,
        /// In the normalizer: before every segment between added tokens, even one that starts with
        /// a space.
        Normalizer = 1,
        /// In the pre-tokenizer: before every segment that does not start with a space.
        Each = 2,
        /// As `Each`, but only at the start of the text.
        First = 3,
    }
}
byte_enum! {
    /// How [`Kind::SentencePiece`] cuts a segment into words.
    Words {
        /// Not at all: a segment is merged as a whole.
        Whole = 0,
        /// Before every [`SPACE_MARK`](super::layout::SPACE_MARK), as Metaspace does.
        EachMark = 1,
        /// Before a [`SPACE_MARK`](super::layout::SPACE_MARK) that follows something else. The
        /// writer has proven that no merge crosses such a place, so the result is that of `Whole`,
        /// in less scratch.
        MarkRuns = 2,
    }
}
byte_enum! {
    /// What decoding removes from the start of a text.
    Strip {
        /// Nothing.
        Nothing = 0,
        /// One space, if the text starts with one.
        OneSpace = 1,
        /// All spaces of the first token (the Metaspace decoder).
        FirstToken = 2,
    }
}
byte_enum! {
    /// What a token is.
    TokenKind {
        /// Text.
        Normal = 0,
        /// A control token, not part of the decoded text.
        Special = 1,
        /// One byte of a character that has no token of its own.
        Byte = 2,
        /// An id that no token has.
        Unused = 3,
        /// Text that continues a word (`Kind::WordPiece`, whose other text has a space in front).
        Continuing = 4,
        /// Text that starts a word and has no space in front all the same: punctuation.
        Joined = 5,
    }
}
byte_enum! {
    /// What becomes of the characters of a run of [`Table::Chars`](super::layout::Table::Chars) in
    /// `Kind::WordPiece`.
    Fold {
        /// The value is added to each; one that makes no character stays.
        Add = 0,
        /// The value is added to the first and to each second after it; the others stay. Capitals
        /// that alternate with their small letters.
        AddToEachSecond = 1,
        /// Each becomes the character that is the value.
        Become = 2,
        /// Each becomes a text of [`Table::AddedBytes`](super::layout::Table::AddedBytes), at the
        /// low 24 bits of the value, of as many bytes as the high 8 bits say: none, if the
        /// character is dropped.
        Text = 3,
        /// Hangul syllables become their two or three letters.
        Hangul = 4,
    }
}
