//! HTML and SVG under construction.
//!
//! Invariant: only literals of this crate are markup. Whatever comes from a file (names, texts,
//! even numbers) goes through [`Markup::text`], which leaves nothing that a browser could take for
//! a tag, an attribute's end or a control character.

use std::fmt::{Display, Write};

/// Well-formed as far as its literals are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Markup(String);

/// Escapes on the way.
struct Escaped<'s>(&'s mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(c),
                c if c.is_control() => self.0.push(char::REPLACEMENT_CHARACTER),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

impl Markup {
    /// Markup as it is.
    pub(crate) fn raw(&mut self, literal: &'static str) -> &mut Self {
        self.0.push_str(literal);
        self
    }

    /// Text or a number, for an element or within the quotes of an attribute.
    pub(crate) fn text(&mut self, text: impl Display) -> &mut Self {
        // Writing to a string does not fail.
        let _ = write!(Escaped(&mut self.0), "{text}");
        self
    }

    /// A coordinate: a tenth of a pixel is enough.
    pub(crate) fn at(&mut self, x: f64) -> &mut Self {
        self.text(format_args!("{:.1}", if x.is_finite() { x } else { 0.0 }))
    }

    pub(crate) fn append(&mut self, other: &Self) -> &mut Self {
        self.0.push_str(&other.0);
        self
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }
}

/// Bytes for people.
pub(crate) fn bytes(n: f64) -> String {
    match n {
        n if n < 1e3 => format!("{n:.0} B"),
        n if n < 1e6 => format!("{} kB", digits(n / 1e3)),
        n if n < 1e9 => format!("{} MB", digits(n / 1e6)),
        n => format!("{} GB", digits(n / 1e9)),
    }
}

/// Three significant digits, without an exponent where that is short.
pub(crate) fn digits(x: f64) -> String {
    if x == 0.0 {
        return "0".into();
    }
    if !x.is_finite() {
        return "–".into();
    }
    match x.abs().log10().floor() as i32 {
        e @ -5..3 => format!("{x:.*}", (2 - e) as usize),
        3..9 => {
            let whole = format!("{:.0}", x.abs());
            let groups: Vec<&str> = whole
                .as_bytes()
                .rchunks(3)
                .rev()
                .map(|g| str::from_utf8(g).unwrap_or(""))
                .collect();
            format!("{}{}", if x < 0.0 { "−" } else { "" }, groups.join("\u{202f}"))
        }
        _ => format!("{x:.2e}"),
    }
}

/// A tick: as few digits as it needs.
pub(crate) fn tick(x: f64) -> String {
    let long = digits(x);
    if long.contains('.') && !long.contains('e') {
        long.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        long
    }
}

/// A fraction as percent.
pub(crate) fn percent(x: f64) -> String {
    match x * 100.0 {
        p if !p.is_finite() => "–".into(),
        p if p == 100.0 || p == 0.0 => format!("{p:.0}%"),
        // Never rounded up to all.
        p if (99.0..100.0).contains(&p) => format!("{:.2}%", (p * 100.0).floor() / 100.0),
        p if p.abs() >= 10.0 => format!("{p:.1}%"),
        p => format!("{p:.2}%"),
    }
}

/// With a sign.
pub(crate) fn change(x: f64) -> String {
    let sign = if x < 0.0 { "−" } else { "+" };
    format!("{sign}{}", percent(x.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hostile_gets_through() {
        let mut markup = Markup::default();
        markup.raw("<p title=\"").text("\"><script>alert('x' & 1)</script>\u{0}\u{1b}").raw("\">");
        let want = "<p title=\"&quot;&gt;&lt;script&gt;alert(&#39;x&#39; &amp; \
                    1)&lt;/script&gt;\u{fffd}\u{fffd}\">";
        assert_eq!(markup.finish(), want);
    }

    #[test]
    fn numbers_are_for_people() {
        let shown = [0.0, 0.012_345, 1.0, 12.345, 999.6, 123_456.0, 1e-7].map(digits);
        assert_eq!(shown, ["0", "0.0123", "1.00", "12.3", "1000", "123\u{202f}456", "1.00e-7"]);
        assert_eq!([0.5, 20.0, 0.001, 1e-6].map(tick), ["0.5", "20", "0.001", "1.00e-6"]);
        assert_eq!(
            [1.0, 0.999_99, 0.8649, 0.051, 0.0].map(percent),
            ["100%", "99.99%", "86.5%", "5.10%", "0%"]
        );
        assert_eq!([912.0, 577_984.0, 3.5e6].map(bytes), ["912 B", "578 kB", "3.50 MB"]);
        assert_eq!([0.05, -0.002].map(change), ["+5.00%", "−0.20%"]);
    }
}
