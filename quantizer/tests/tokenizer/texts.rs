//! Texts that tokenizers get wrong.

use proptest::prelude::*;

/// What hostile texts are put together from: every kind of whitespace, mark, quote, digit, and the names of special
/// tokens.
pub(crate) const ATOMS: &[&str] = &[
    "a", "Z", "the", " the", "kinglet", "extraordinary", "\u{e9}", "e\u{301}", "\u{301}", "\u{df}", "\u{17f}", "\u{212a}",
    " ", "  ", "       ", "\t", "\n", "\r\n", "\r", "\n\n\n", "\u{b}", "\u{c}", "\u{1c}", "\u{85}", "\u{a0}", "\u{1680}",
    "\u{180e}", "\u{2003}", "\u{200b}", "\u{2028}", "\u{2029}", "\u{202f}", "\u{205f}", "\u{3000}", "\u{feff}",
    "\u{2581}", "\u{2581}\u{2581}", "\u{2581}the", "'", "'s", "'S", "'\u{17f}", "'ll", "'LL", "'lL", "'re", "'VE", "'d",
    "'x", "\u{2019}s", "\u{2bc}t", "''", "`", "\"", "1", "12", "1234567", "\u{663}\u{664}", "\u{bd}", "\u{2163}", "\u{b2}",
    "\u{4e00}", "\u{3007}", "\u{9e1f}\u{5728}", "\u{ac00}", "\u{1100}\u{1161}", "\u{627}\u{644}\u{639}", "\u{5d0}\u{200f}",
    "\u{915}\u{93f}", "\u{e40}\u{e01}", "\u{1f426}", "\u{1f469}\u{200d}\u{1f469}\u{200d}\u{1f467}", "\u{1f3f3}\u{fe0f}",
    "\u{1f44d}\u{1f3fd}", "1\u{fe0f}\u{20e3}", "\u{0}", "\u{1}", "\u{1b}", "\u{7f}", "\u{9f}", "\u{ad}", "\u{d7ff}",
    "\u{e000}", "\u{fffd}", "\u{fffe}", "\u{ffff}", "\u{10000}", "\u{1d7d8}", "\u{1d400}", "\u{e0001}", "\u{10ffff}",
    "\u{378}", "\u{30000}", "_", "-", "...", "!?", "#", "<", ">", "<<", "<|", "|>", "<s>", "</s>", "<unk>", "<0x0A>",
    "<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "<|im_", "<think>", "<tool_call>",
    "<repo_name>", "{\"a\": [1]}", "\\", "/", "@", "\u{fb01}", "\u{1e9e}", "\u{130}", "\u{20ac}", "\u{2122}",
];

/// Longer hostile texts.
pub(crate) fn long() -> Vec<String> {
    let mut texts = vec![String::new()];
    for atom in ATOMS {
        for count in [2, 3, 7, 40, 300] {
            texts.push(atom.repeat(count));
        }
        texts.push(format!("word {atom} word"));
        texts.push(format!("{atom}word{atom}"));
        texts.push(format!("1{atom}2 {atom}\n{atom}"));
        texts.push(format!("{0}x{0}", format!(" {atom}").repeat(9)));
    }
    texts
}

/// Random texts: of any characters, and of atoms.
pub(crate) fn any_text() -> impl Strategy<Value = String> {
    let atoms = prop::collection::vec(prop::sample::select(ATOMS), 0..24).prop_map(|atoms| atoms.concat());
    let chars = prop::collection::vec(any::<char>(), 0..40).prop_map(String::from_iter);
    let ascii = prop::collection::vec(0u8..128, 0..60).prop_map(|bytes| bytes.into_iter().map(char::from).collect());
    prop_oneof![3 => atoms, 1 => chars, 1 => ascii]
}
