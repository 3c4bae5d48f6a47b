//! The tables of the page.

use super::Tensor;
use super::data::Report;
use super::markup::{Markup, bytes, change, digits, percent};
use kinglet_evaluate::Nearness;

/// A table in the making. Columns of numbers are aligned right.
struct Table(Markup);

/// How a cell is set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cell {
    Text,
    Number,
    Why,
}

impl Table {
    fn new(name: &'static str, tall: bool, columns: &[(&'static str, Cell)]) -> Self {
        let mut out = Markup::default();
        out.raw("<div class=\"scroll").raw(if tall { " tall" } else { "" });
        out.raw("\" role=\"region\" tabindex=\"0\" aria-label=\"")
            .raw(name)
            .raw("\">\n<table>\n<thead><tr>");
        for (title, cell) in columns {
            let class = if *cell == Cell::Number { " class=\"n\"" } else { "" };
            out.raw("<th scope=\"col\"").raw(class).raw(">").raw(title).raw("</th>");
        }
        out.raw("</tr></thead>\n<tbody>\n");
        Self(out)
    }

    fn row(&mut self, own: bool, name: &str) -> &mut Self {
        self.0.raw(if own { "<tr class=\"own\">" } else { "<tr>" });
        self.0.raw("<th scope=\"row\">").text(name).raw("</th>");
        self
    }

    fn cell(&mut self, cell: Cell, text: &str) -> &mut Self {
        let class = match cell {
            Cell::Text => "<td>",
            Cell::Number => "<td class=\"n\">",
            Cell::Why => "<td class=\"why\">",
        };
        self.0.raw(class).text(text).raw("</td>");
        self
    }

    fn end(&mut self) {
        self.0.raw("</tr>\n");
    }

    fn finish(mut self, caption: &str) -> Markup {
        self.0.raw("</tbody>\n</table>\n</div>\n<p class=\"soft\">").text(caption).raw("</p>\n");
        self.0
    }
}

/// Whether any has it.
fn any<T>(items: &[T], has: impl Fn(&T) -> bool) -> bool {
    items.iter().any(has)
}

/// Perplexity, divergence and agreement of each file.
pub(super) fn quality(report: &Report) -> Option<Markup> {
    let first = report.quality.first()?;
    let from_reference = any(&report.quality, |q| q.evaluation.divergence.is_some());
    let from_first = any(&report.quality, |q| q.evaluation.from_first.is_some());
    let mut columns =
        vec![("file", Cell::Text), ("size", Cell::Number), ("perplexity", Cell::Number)];
    if from_reference {
        columns.extend(
            ["change", "mean KL", "99% below", "largest", "top-1", "top-5"]
                .map(|c| (c, Cell::Number)),
        );
    }
    if from_first {
        columns.extend(["KL from the first", "top-1 with it"].map(|c| (c, Cell::Number)));
    }
    let mut table = Table::new("Quality", false, &columns);
    if let Some(d) = first.evaluation.divergence {
        let size =
            report.size.and_then(|size| size.f32_bytes).map_or("–".into(), |n| bytes(n as f64));
        table.row(false, "f32 checkpoint").cell(Cell::Number, &size);
        table.cell(Cell::Number, &digits(d.reference_perplexity));
        (3..columns.len()).for_each(|_| _ = table.cell(Cell::Number, ""));
        table.end();
    }
    for (number, quality) in report.quality.iter().enumerate() {
        let e = &quality.evaluation;
        table.row(number == 0, &quality.name).cell(Cell::Number, &bytes(quality.bytes as f64));
        table.cell(Cell::Number, &digits(e.perplexity));
        if from_reference {
            let cells = e.divergence.map(|d| {
                let excess = change(e.perplexity / d.reference_perplexity - 1.0);
                let [kl, p99, max] = [d.mean_kl, d.p99_kl, d.max_kl].map(digits);
                [excess, kl, p99, max, percent(d.top1_agreement), percent(d.top5_agreement)]
            });
            cells.unwrap_or_default().iter().for_each(|cell| _ = table.cell(Cell::Number, cell));
        }
        if from_first {
            let cells = e.from_first.map(|d| [digits(d.mean_kl), percent(d.top1_agreement)]);
            cells.unwrap_or_default().iter().for_each(|cell| _ = table.cell(Cell::Number, cell));
        }
        table.end();
    }
    Some(table.finish(
        "KL is the divergence of the next-token distribution from the f32 checkpoint’s at each \
         scored position, in nats. Top-1: the \
         part of positions where both find the same token most probable; top-5: where the \
         checkpoint’s most probable token is \
         among the file’s five.",
    ))
}

/// How near the outputs of each file are to the checkpoint's.
pub(super) fn agreement(report: &Report) -> Option<Markup> {
    let first = report.agreement.first()?;
    let titles: &[&'static str] = match first.agreement.nearness {
        Nearness::Distributions { .. } => {
            &["size", "outputs", "mean KL", "99% below", "largest", "top-1"]
        }
        Nearness::Vectors { .. } => &["size", "outputs", "mean cosine", "least"],
    };
    let mut columns = vec![("file", Cell::Text)];
    columns.extend(titles.iter().map(|&title| (title, Cell::Number)));
    let mut table = Table::new("Agreement with f32", false, &columns);
    for (index, agreed) in report.agreement.iter().enumerate() {
        table.row(index == 0, &agreed.name).cell(Cell::Number, &bytes(agreed.bytes as f64));
        table.cell(Cell::Number, &agreed.agreement.outputs.to_string());
        let cells = match agreed.agreement.nearness {
            Nearness::Distributions { mean_kl, p99_kl, max_kl, top1_agreement } => {
                vec![digits(mean_kl), digits(p99_kl), digits(max_kl), percent(top1_agreement)]
            }
            Nearness::Vectors { mean_cosine, least_cosine } => {
                [mean_cosine, least_cosine].map(percent).to_vec()
            }
        };
        cells.iter().for_each(|cell| _ = table.cell(Cell::Number, cell));
        table.end();
    }
    Some(table.finish(
        "Each input through the file and through the f32 checkpoint. Of distributions, KL is the \
         divergence from the checkpoint’s, in nats, \
         and top-1 the part in which both find the same most probable; of vectors, the cosine of \
         the angle between both.",
    ))
}

/// Bytes of the file by component.
pub(super) fn components(report: &Report) -> Option<Markup> {
    let all: u64 = report.components.iter().map(|c| c.bytes).sum();
    if all == 0 {
        return None;
    }
    let columns = [
        ("component", Cell::Text),
        ("weights", Cell::Number),
        ("size", Cell::Number),
        ("part", Cell::Number),
    ];
    let mut table =
        Table::new("Size by component", false, &[&columns[..], &[("", Cell::Text)]].concat());
    for component in &report.components {
        let part = component.bytes as f64 / all as f64;
        let weights =
            if component.weights > 0 { digits(component.weights as f64) } else { String::new() };
        table.row(false, &component.name).cell(Cell::Number, &weights);
        table.cell(Cell::Number, &bytes(component.bytes as f64)).cell(Cell::Number, &percent(part));
        table
            .0
            .raw("<td class=\"bar\"><span style=\"width:")
            .at(part * 100.0)
            .raw("%\"></span></td>");
        table.end();
    }
    let size = report.size.map(|size| {
        let whole = bytes(size.file_bytes as f64);
        format!(
            "{whole} in all; weights of the blocks’ matrices take {} bits each, with scales, \
             codebooks and padding.",
            digits(size.bits_per_weight)
        )
    });
    Some(table.finish(&size.unwrap_or_default()))
}

/// What was done to each tensor, and why.
pub(super) fn tensors(report: &Report) -> Option<Markup> {
    let tensors = &report.record.tensors;
    if tensors.is_empty() {
        return None;
    }
    type Get = fn(&Tensor) -> Option<String>;
    let columns: [(&'static str, Cell, Get); 7] = [
        ("shape", Cell::Number, |t| Some(format!("{} × {}", t.rows, t.cols))),
        ("format", Cell::Text, |t| Some(t.format.clone())),
        ("bits", Cell::Number, |t| Some(format!("{:.2}", t.bits))),
        ("rounding", Cell::Text, |t| t.rounding.clone()),
        ("error", Cell::Number, |t| t.error.map(percent)),
        ("zeros", Cell::Number, |t| t.sparsity.map(percent)),
        ("why", Cell::Why, |t| t.reason.clone()),
    ];
    let used: Vec<_> =
        columns.into_iter().filter(|(_, _, get)| any(tensors, |t| get(t).is_some())).collect();
    let mut head = vec![("tensor", Cell::Text)];
    head.extend(used.iter().map(|&(title, cell, _)| (title, cell)));
    let mut table = Table::new("Tensors", tensors.len() > 24, &head);
    for tensor in tensors {
        table.row(false, &tensor.name);
        for (_, cell, get) in &used {
            table.cell(*cell, &get(tensor).unwrap_or_default());
        }
        table.end();
    }
    let error = any(tensors, |t| t.error.is_some());
    Some(table.finish(if error {
        "Error: that of the outputs on the calibration text, relative to their size."
    } else {
        ""
    }))
}
