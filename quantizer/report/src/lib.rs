//! A page about a compressed model: what was done, what it cost, and how both are known.
//!
//! [`Report`] holds everything that is shown and can be written as JSON; [`html`] renders it. The
//! page is one file: no network, no script, no clock. It follows the reader's light or dark scheme
//! and fits a phone; tables wider than the screen scroll inside themselves, and figures say their
//! numbers in titles and captions.
//!
//! Invariants: the same report gives the same bytes; a part that is empty has no section; only
//! literals of this crate are markup (`markup`).

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(clippy::missing_errors_doc)]

mod data;
mod markup;
mod plot;
mod rank;
mod sections;
mod tables;

pub use data::{Agreed, Component, Means, ModelFacts, Prompt, Quality, Report, Size, Speed, Text};
pub use kinglet_evaluate::record::{BlockFigures, Note, Record, Sensitivity, Tensor};
pub use rank::correlation;

use self::markup::Markup;

const STYLE: &str = include_str!("style.css");

/// The page.
pub fn html(report: &Report) -> String {
    let mut page = Markup::default();
    page.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>");
    page.text(&report.name)
        .raw("</title>\n<style>\n")
        .raw(STYLE)
        .raw("</style>\n</head>\n<body>\n");
    page.raw("<header>\n<h1>").text(&report.name).raw("</h1>\n");
    if let Some(lede) = sections::lede(report) {
        page.raw("<p class=\"lede\">").text(lede).raw("</p>\n");
    }
    if let Some(tiles) = sections::tiles(report) {
        page.append(&tiles);
    }
    page.raw("</header>\n<main>\n");
    let sections: [(&'static str, Option<Markup>); 10] = [
        ("What was done", sections::notes(report)),
        ("Quality", tables::quality(report)),
        ("Agreement with f32", tables::agreement(report)),
        ("Hidden states", sections::hidden(report)),
        ("Size against quality and speed", sections::frontier(report)),
        ("Sensitivity", sections::sensitivity(report)),
        ("Blocks", sections::blocks(report)),
        ("Where the bytes are", tables::components(report)),
        ("Tensors", tables::tensors(report)),
        ("Side by side", sections::prompts(report)),
    ];
    for (title, body) in &sections {
        if let Some(body) = body {
            page.raw("<section>\n<h2>").raw(title).raw("</h2>\n").append(body).raw("</section>\n");
        }
    }
    page.raw("</main>\n</body>\n</html>\n");
    page.finish()
}
