//! Plots as inline SVG.
//!
//! Why not `plotters`: its SVG backend writes colours as literals, and gives a mark neither a class
//! nor a `<title>`; a page that follows the reader's light or dark scheme and says the figure under
//! the pointer without a script would have to rewrite its output. What is needed instead is little:
//! a scale ([`scale`]), a frame, and marks in classes that the style sheet colours.

mod frame;
pub(crate) mod scale;
mod words;

use self::frame::{Frame, label_width};
use self::words::SERIES;
pub(crate) use self::words::{Format, Mark, Words};
use super::markup::{Markup, digits, tick};

/// A line over named places.
pub(crate) struct Line {
    pub(crate) name: String,
    /// For each place the figure, if there is one, and what to say about it.
    pub(crate) points: Vec<Option<(f64, String)>>,
}

/// Lines over places in order, such as layers; `places` are the labels under the axis.
pub(crate) fn lines(
    words: &Words<'_>,
    places: &[String],
    lines: &[Line],
    format: Format,
) -> Markup {
    let values = || lines.iter().flat_map(|l| l.points.iter().flatten().map(|p| p.0));
    let several = lines.len() > 1;
    let widest = lines.iter().map(|l| label_width(&l.name)).fold(0.0, f64::max);
    let right = if several { (widest + 12.0).min(150.0) } else { 12.0 };
    let mut frame = Frame::new(words, right);
    frame.y_axis(values(), format);
    let step = (frame.right - frame.left) / (places.len().max(2) - 1) as f64;
    let left = frame.left;
    let x = |at: usize| left + step * at as f64;
    frame.places(places, x);

    let mut ends = vec![];
    for (number, line) in lines.iter().enumerate() {
        let points =
            line.points.iter().enumerate().filter_map(|(at, p)| p.as_ref().map(|p| (at, p)));
        let points: Vec<_> = points.collect();
        let class = SERIES[number % SERIES.len()];
        frame.path(class, points.iter().map(|(at, p)| (x(*at), p.0)));
        for (at, (value, said)) in &points {
            frame.mark(number, x(*at), *value, said, false);
        }
        if let Some((at, last)) = points.last().filter(|_| several) {
            ends.push((x(*at), frame.y(last.0), class, line.name.as_str()));
        }
    }
    frame.end_labels(ends);
    frame.finish()
}

/// Marks by two figures; those of a series but the first are joined from left to right. `names` are
/// the series'.
pub(crate) fn scatter(
    words: &Words<'_>,
    marks: &[Mark],
    names: &[&'static str],
    x: Format,
    y: Format,
) -> Markup {
    let mut frame = Frame::new(words, 14.0);
    frame.y_axis(marks.iter().map(|m| m.y), y);
    frame.x_axis(marks.iter().map(|m| m.x), x);
    for (series, class) in SERIES.iter().enumerate().skip(1) {
        let mut own: Vec<_> = marks.iter().filter(|m| m.series == series).collect();
        own.sort_by(|a, b| a.x.total_cmp(&b.x));
        let points: Vec<_> = own.iter().map(|m| (frame.x(m.x), m.y)).collect();
        frame.path(class, points.into_iter());
    }
    for mark in marks {
        let at = frame.x(mark.x);
        frame.mark(mark.series, at, mark.y, &mark.said, mark.own);
    }
    frame.free_labels(marks);
    let used =
        names.iter().enumerate().filter(|(series, _)| marks.iter().any(|m| m.series == *series));
    frame.legend(used.map(|(series, name)| (series, *name)));
    frame.finish()
}

/// Named figures, one below the other, as dots on a line.
pub(crate) fn dots(words: &Words<'_>, rows: &[(String, f64, String)]) -> Markup {
    const ROW: f64 = 17.0;
    let widest = rows.iter().map(|r| label_width(&r.0)).fold(0.0, f64::max).min(200.0);
    let mut frame = Frame::tall(words, widest + 10.0, ROW * rows.len() as f64);
    frame.x_axis(rows.iter().map(|r| r.1), tick);
    for (number, (name, value, said)) in rows.iter().enumerate() {
        let y = frame.top + ROW * (number as f64 + 0.5);
        frame.row(y, name, *value, &format!("{name}: {} {said}", digits(*value)));
    }
    frame.finish()
}
