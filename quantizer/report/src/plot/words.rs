//! What a figure is given.

/// Classes of series in the style sheet, with a shape each.
pub(super) const SERIES: [&str; 4] = ["s0", "s1", "s2", "s3"];

/// A figure's words.
pub(crate) struct Words<'w> {
    /// What is seen, for those who do not see it.
    pub(crate) summary: &'w str,
    pub(crate) x: &'w str,
    pub(crate) y: &'w str,
}

/// How to write a number on an axis.
pub(crate) type Format = fn(f64) -> String;

/// A mark somewhere.
pub(crate) struct Mark {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// Number of its series.
    pub(crate) series: usize,
    pub(crate) label: String,
    /// What to say about it.
    pub(crate) said: String,
    /// Whether it is what the page is about.
    pub(crate) own: bool,
}
