//! The paper of one plot: axes, marks, and labels that keep out of each other's way.
//!
//! All lengths are in the units of a view box 420 wide, so that letters are still legible when a
//! phone shows it in 350 pixels.

use super::scale::Scale;
use super::{Format, Mark, SERIES, Words};
use crate::markup::Markup;

const WIDTH: f64 = 420.0;
/// Height of the part between the axes.
const HEIGHT: f64 = 190.0;
/// Above the plot: the name of the vertical axis.
const HEAD: f64 = 26.0;
/// Below it: ticks, and the name of the horizontal axis.
const FOOT: f64 = 40.0;
/// Height of a line of letters.
const LETTER: f64 = 12.0;

/// How wide letters of the usual size are, near enough.
pub(super) fn label_width(text: &str) -> f64 {
    text.chars().count() as f64 * 5.9
}

/// A label with an ellipsis, if it is wider than this.
fn fitting(text: &str, width: f64) -> String {
    let most = (width / 5.9) as usize;
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

pub(super) struct Frame {
    out: Markup,
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    bottom: f64,
    x: Option<Scale>,
    y: Option<Scale>,
    /// What is taken: left, top, right, bottom.
    taken: Vec<[f64; 4]>,
    foot: f64,
}

impl Frame {
    pub(super) fn new(words: &Words<'_>, right: f64) -> Self {
        Self::with(words, 44.0, right, HEIGHT)
    }

    /// With a column of names on the left.
    pub(super) fn tall(words: &Words<'_>, left: f64, height: f64) -> Self {
        Self::with(words, left, 16.0, height)
    }

    fn with(words: &Words<'_>, left: f64, right: f64, height: f64) -> Self {
        let mut out = Markup::default();
        let head = if words.y.is_empty() { 8.0 } else { HEAD };
        let bottom = head + height;
        out.raw("<svg viewBox=\"0 0 ")
            .at(WIDTH)
            .raw(" ")
            .at(bottom + FOOT)
            .raw("\" role=\"img\" aria-label=\"");
        out.text(words.summary).raw("\">");
        out.raw("<text class=\"name\" x=\"2\" y=\"13\">").text(words.y).raw("</text>");
        out.raw("<text class=\"name end\" x=\"")
            .at(WIDTH - right)
            .raw("\" y=\"")
            .at(bottom + 34.0)
            .raw("\">");
        out.text(words.x).raw("</text>");
        let right = WIDTH - right;
        Self {
            out,
            left,
            right,
            top: head,
            bottom,
            x: None,
            y: None,
            taken: vec![],
            foot: bottom + 18.0,
        }
    }

    pub(super) fn x(&self, value: f64) -> f64 {
        self.x.as_ref().map_or(0.0, |scale| scale.at(value))
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        self.y.as_ref().map_or(0.0, |scale| scale.at(value))
    }

    pub(super) fn y_axis(&mut self, values: impl Iterator<Item = f64>, format: Format) {
        let scale = Scale::new(values, self.bottom..=self.top);
        for &value in &scale.ticks {
            let y = scale.at(value);
            self.rule([self.left, y, self.right, y]);
            self.out
                .raw("<text class=\"end\" x=\"")
                .at(self.left - 7.0)
                .raw("\" y=\"")
                .at(y + 4.0)
                .raw("\">");
            self.out.text(format(value)).raw("</text>");
        }
        self.y = Some(scale);
    }

    pub(super) fn x_axis(&mut self, values: impl Iterator<Item = f64>, format: Format) {
        let scale = Scale::new(values, self.left..=self.right);
        let mut free = f64::NEG_INFINITY;
        for &value in &scale.ticks {
            let (x, text) = (scale.at(value), format(value));
            self.rule([x, self.top, x, self.bottom]);
            let half = label_width(&text) / 2.0;
            if x - half > free {
                free = x + half + 6.0;
                self.out
                    .raw("<text class=\"middle\" x=\"")
                    .at(x)
                    .raw("\" y=\"")
                    .at(self.foot)
                    .raw("\">");
                self.out.text(text).raw("</text>");
            }
        }
        self.x = Some(scale);
    }

    /// Labels of places in order, as many as there is room for.
    pub(super) fn places(&mut self, places: &[String], x: impl Fn(usize) -> f64) {
        let mut free = f64::NEG_INFINITY;
        for (at, text) in places.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
            let half = label_width(text) / 2.0;
            let middle = x(at).max(half);
            if middle - half > free {
                free = middle + half + 4.0;
                self.out
                    .raw("<text class=\"middle\" x=\"")
                    .at(middle)
                    .raw("\" y=\"")
                    .at(self.foot)
                    .raw("\">");
                self.out.text(text).raw("</text>");
            }
        }
    }

    fn rule(&mut self, [x1, y1, x2, y2]: [f64; 4]) {
        self.out.raw("<line class=\"rule\" x1=\"").at(x1).raw("\" y1=\"").at(y1);
        self.out.raw("\" x2=\"").at(x2).raw("\" y2=\"").at(y2).raw("\"/>");
    }

    /// A line through points: a place and a figure each.
    pub(super) fn path(&mut self, class: &'static str, points: impl Iterator<Item = (f64, f64)>) {
        self.out.raw("<path class=\"line ").raw(class).raw("\" d=\"");
        for (number, (x, value)) in points.enumerate() {
            let y = self.y(value);
            self.out.raw(if number == 0 { "M" } else { "L" }).at(x).raw(" ").at(y);
        }
        self.out.raw("\"/>");
    }

    /// A point, in the shape and colour of its series.
    pub(super) fn mark(&mut self, series: usize, x: f64, value: f64, said: &str, own: bool) {
        let y = self.y(value);
        if own {
            self.out
                .raw("<circle class=\"ring\" r=\"7.5\" cx=\"")
                .at(x)
                .raw("\" cy=\"")
                .at(y)
                .raw("\"/>");
        }
        self.symbol(series, x, y, said);
        self.taken.push([x - 5.0, y - 5.0, x + 5.0, y + 5.0]);
    }

    fn symbol(&mut self, series: usize, x: f64, y: f64, said: &str) {
        let series = series % SERIES.len();
        let shape = [
            "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z",
            "M-3-3h6v6h-6z",
            "M0-4L3.7 3h-7.4z",
            "M0-4.2L4.2 0 0 4.2-4.2 0z",
        ];
        self.out.raw("<path class=\"mark ").raw(SERIES[series]).raw("\" d=\"").raw(shape[series]);
        self.out.raw("\" transform=\"translate(").at(x).raw(" ").at(y).raw(")\">");
        if !said.is_empty() {
            self.out.raw("<title>").text(said).raw("</title>");
        }
        self.out.raw("</path>");
    }

    /// Names at the ends of lines: place, class, name. They move apart until each has its own line.
    pub(super) fn end_labels(&mut self, mut ends: Vec<(f64, f64, &'static str, &str)>) {
        ends.sort_by(|a, b| a.1.total_cmp(&b.1));
        let mut free = self.top;
        for end in &mut ends {
            end.1 = (end.1 + 4.0).max(free);
            free = end.1 + LETTER + 1.0;
        }
        let over = (free - LETTER - 1.0 - self.bottom - 4.0).max(0.0);
        for (x, y, class, name) in ends {
            let room = WIDTH - x - 9.0;
            self.out
                .raw("<text class=\"")
                .raw(class)
                .raw("\" x=\"")
                .at(x + 8.0)
                .raw("\" y=\"")
                .at(y - over)
                .raw("\">");
            self.out.text(fitting(name, room)).raw("</text>");
        }
    }

    /// Labels beside marks, where nothing else is; a mark without room for one has its title.
    pub(super) fn free_labels(&mut self, marks: &[Mark]) {
        // What the page is about has the first choice.
        let (own, others): (Vec<_>, Vec<_>) = marks.iter().partition(|mark| mark.own);
        for mark in own.into_iter().chain(others) {
            let label = fitting(&mark.label, 130.0);
            let (x, y, width) = (self.x(mark.x), self.y(mark.y), label_width(&label));
            let places = [
                (x + 9.0, y + 4.0),
                (x - 9.0 - width, y + 4.0),
                (x - width / 2.0, y - 10.0),
                (x - width / 2.0, y + 19.0),
            ];
            let diagonal = [
                (x + 6.0, y - 8.0),
                (x + 6.0, y + 16.0),
                (x - 6.0 - width, y - 8.0),
                (x - 6.0 - width, y + 16.0),
            ];
            let boxed = |&(left, base): &(f64, f64)| [left, base - 10.0, left + width, base + 3.0];
            let free = |place: &(f64, f64)| {
                let [left, top, right, bottom] = boxed(place);
                let inside = left >= self.left
                    && right <= WIDTH
                    && top >= self.top - 8.0
                    && bottom <= self.bottom;
                let clear =
                    |t: &[f64; 4]| right < t[0] || left > t[2] || bottom < t[1] || top > t[3];
                inside && self.taken.iter().all(clear)
            };
            let Some(place) = places.into_iter().chain(diagonal).find(free) else { continue };
            self.taken.push(boxed(&place));
            self.out.raw(if mark.own {
                "<text class=\"own\" x=\""
            } else {
                "<text class=\"label\" x=\""
            });
            self.out.at(place.0).raw("\" y=\"").at(place.1).raw("\">").text(&label).raw("</text>");
        }
    }

    /// Shapes and names of series, under the name of the vertical axis, at the right.
    pub(super) fn legend(&mut self, series: impl Iterator<Item = (usize, &'static str)>) {
        let entries: Vec<_> = series.collect();
        let width: f64 = entries.iter().map(|(_, name)| label_width(name) + 22.0).sum();
        let mut x = self.right - width + 10.0;
        for (number, name) in entries {
            self.symbol(number, x, 9.0, "");
            self.out
                .raw("<text class=\"")
                .raw(SERIES[number % SERIES.len()])
                .raw("\" x=\"")
                .at(x + 8.0)
                .raw("\" y=\"13\">");
            self.out.text(name).raw("</text>");
            x += label_width(name) + 22.0;
        }
    }

    /// A name, a hairline, and a dot on it.
    pub(super) fn row(&mut self, y: f64, name: &str, value: f64, said: &str) {
        let x = self.x(value);
        self.out
            .raw("<text class=\"end label\" x=\"")
            .at(self.left - 8.0)
            .raw("\" y=\"")
            .at(y + 4.0)
            .raw("\">");
        self.out.text(fitting(name, self.left - 8.0)).raw("</text>");
        self.rule([self.left, y, self.right, y]);
        self.symbol(0, x, y, said);
    }

    pub(super) fn finish(mut self) -> Markup {
        self.out.raw("</svg>");
        self.out
    }
}
