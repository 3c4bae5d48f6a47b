//! The parts of the page that are not tables: summary, notes, figures, prompts.

use super::BlockFigures;
use super::data::{Agreed, Means, Prompt, Report, Size, Speed};
use super::markup::{Markup, bytes, change, digits, percent, tick};
use super::plot::{self, Line, Mark, Words};
use super::rank::correlation;
use kinglet_evaluate::{Evaluation, Nearness, Part, Place};

/// Dots of one figure; more are left out, the smallest first.
const MOST_DOTS: usize = 40;

/// What the model is and what it was measured on, in sentences.
pub(super) fn lede(report: &Report) -> Option<String> {
    let model = report.model.as_ref().map(|m| {
        let blocks = match m.checkpoint_blocks.filter(|&all| all != m.blocks) {
            Some(all) => format!("{} of {all} blocks", m.blocks),
            None => format!("{} blocks", m.blocks),
        };
        let family =
            if m.family.is_empty() { "A model".into() } else { format!("A {} model", m.family) };
        format!(
            "{family}: {blocks} of width {}, {} tokens, {} positions.",
            m.width, m.vocab, m.context
        )
    });
    let text = report.text.as_ref().zip(report.quality.first()).map(|(text, quality)| {
        let bos =
            if text.protocol.bos.is_some() { ", each after a begin-of-sequence token" } else { "" };
        let (tokens, window) = (quality.evaluation.tokens, text.protocol.window);
        format!("Measured on {tokens} tokens of {}, in windows of {window}{bos}.", text.name)
    });
    let said: Vec<String> = [model, text].into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join(" "))
}

/// A figure that matters, its name, and what to compare it with.
struct Tile {
    figure: String,
    name: &'static str,
    more: String,
}

/// The figures that matter, large.
pub(super) fn tiles(report: &Report) -> Option<Markup> {
    let mut tiles = report.size.map_or_else(Vec::new, |size| size_tiles(size).into());
    tiles.extend(report.quality.iter().take(1).flat_map(|first| quality_tiles(&first.evaluation)));
    tiles.extend(report.agreement.first().map(agreement_tile));
    tiles.extend(report.speed.as_ref().map(speed_tile));
    if tiles.is_empty() {
        return None;
    }
    let mut out = Markup::default();
    out.raw("<dl class=\"tiles\">\n");
    for Tile { figure, name, more } in &tiles {
        out.raw("<div><dt>").raw(name).raw("</dt><dd class=\"figure\">").text(figure).raw("</dd>");
        out.raw("<dd class=\"more\">").text(more).raw("</dd></div>\n");
    }
    out.raw("</dl>\n");
    Some(out)
}

fn size_tiles(size: Size) -> [Tile; 2] {
    let of = size.f32_bytes.map(|n| {
        let ratio = digits(n as f64 / size.file_bytes as f64);
        format!("{} in f32, {ratio} times as large", bytes(n as f64))
    });
    let file = Tile {
        figure: bytes(size.file_bytes as f64),
        name: "size of the file",
        more: of.unwrap_or_default(),
    };
    let weights = Tile {
        figure: digits(size.bits_per_weight),
        name: "bits a weight in the blocks",
        more: format!("with scales; {} weights in all", digits(size.weights as f64)),
    };
    [file, weights]
}

fn quality_tiles(evaluation: &Evaluation) -> Vec<Tile> {
    let of = evaluation.divergence.map(|d| {
        let excess = change(evaluation.perplexity / d.reference_perplexity - 1.0);
        format!("{} in f32, {excess}", digits(d.reference_perplexity))
    });
    let perplexity = Tile {
        figure: digits(evaluation.perplexity),
        name: "perplexity",
        more: of.unwrap_or_default(),
    };
    let Some(d) = evaluation.divergence else { return vec![perplexity] };
    let divergence = Tile {
        figure: digits(d.mean_kl),
        name: "mean KL divergence, nats",
        more: format!("99% of positions below {}", digits(d.p99_kl)),
    };
    let same = Tile {
        figure: percent(d.top1_agreement),
        name: "same most probable token",
        more: format!("{} among the five", percent(d.top5_agreement)),
    };
    vec![perplexity, divergence, same]
}

fn agreement_tile(agreed: &Agreed) -> Tile {
    let more = format!("{} inputs of {}", agreed.agreement.samples, agreed.on);
    let (figure, name) = match agreed.agreement.nearness {
        Nearness::Distributions { mean_kl, .. } => (digits(mean_kl), "mean KL divergence, nats"),
        Nearness::Vectors { mean_cosine, .. } => (percent(mean_cosine), "mean cosine with f32"),
    };
    Tile { figure, name, more }
}

fn speed_tile(speed: &Speed) -> Tile {
    let threads = match speed.threads {
        1 => "one thread".to_owned(),
        threads => format!("{threads} threads"),
    };
    Tile {
        figure: digits(speed.tokens_per_second),
        name: "tokens a second",
        more: format!("decode, {}, {threads}", speed.isa),
    }
}

/// What was done, step by step.
pub(super) fn notes(report: &Report) -> Option<Markup> {
    if report.record.notes.is_empty() {
        return None;
    }
    let mut out = Markup::default();
    out.raw("<dl class=\"notes\">\n");
    for note in &report.record.notes {
        out.raw("<dt>").text(&note.what).raw("</dt><dd>").text(&note.how).raw("</dd>\n");
    }
    out.raw("</dl>\n");
    Some(out)
}

fn figure(out: &mut Markup, plot: &Markup, caption: &str) {
    out.raw("<figure>\n")
        .append(plot)
        .raw("\n<figcaption>")
        .text(caption)
        .raw("</figcaption>\n</figure>\n");
}

fn name(place: Option<Place>) -> String {
    place.map_or("embedding".into(), |place| place.to_string())
}

/// Error and angle of the hidden states, after each block.
pub(super) fn hidden(report: &Report) -> Option<Markup> {
    let files: Vec<_> = report
        .quality
        .iter()
        .filter_map(|q| Some((q.name.as_str(), q.evaluation.hidden.as_ref()?)))
        .collect();
    let mut places: Vec<Option<Place>> =
        files.iter().flat_map(|(_, h)| h.states.iter().map(|s| s.after)).collect();
    places.sort();
    places.dedup();
    if places.len() < 2 {
        return None;
    }
    let label = |(at, place): (usize, &Option<Place>)| match place {
        None => "emb".to_owned(),
        // A layer is named once, where it begins.
        Some(p) if at == 0 || places[at - 1].is_none_or(|before| before.layer != p.layer) => {
            p.layer.to_string()
        }
        Some(_) => String::new(),
    };
    let labels: Vec<String> = places.iter().enumerate().map(label).collect();
    let lines = files.iter().map(|(file, hidden)| {
        let point = |place: &Option<Place>| {
            let state = hidden.states.iter().find(|s| s.after == *place)?;
            let (error, cosine) = (percent(state.relative_error), digits(state.cosine));
            Some((
                state.relative_error,
                format!("{file}, after {}: {error}, cosine {cosine}", name(*place)),
            ))
        };
        Line { name: (*file).to_owned(), points: places.iter().map(point).collect() }
    });
    let words = Words {
        summary: "Relative error of the hidden states after each block",
        x: "layer",
        y: "error of the hidden state",
    };
    let mut out = Markup::default();
    out.raw("<div class=\"figures\">\n");
    let plot = plot::lines(&words, &labels, &lines.collect::<Vec<_>>(), short_percent);
    let worst = files
        .first()
        .and_then(|(_, hidden)| hidden.states.iter().min_by(|a, b| a.cosine.total_cmp(&b.cosine)));
    let worst = worst.map_or(String::new(), |s| {
        format!(" The least cosine is {}, after {}.", digits(s.cosine), name(s.after))
    });
    let tokens = files.first().map_or(0, |(_, hidden)| hidden.tokens);
    let caption = format!(
        "Mean over {tokens} tokens of |h − r| / |r|: h is the residual stream after the embedding \
         and after each attention and \
         feed-forward, r the f32 checkpoint’s in the same place.{worst}"
    );
    figure(&mut out, &plot, &caption);
    out.raw("</div>\n");
    Some(out)
}

fn short_percent(x: f64) -> String {
    format!("{}%", tick(x * 100.0))
}

/// Quality by size and by speed.
pub(super) fn frontier(report: &Report) -> Option<Markup> {
    const NAMES: [&str; 4] = ["other", "quantized", "pruned", "both"];
    let series = |means| match means {
        Means::Quantized => 1,
        Means::Pruned => 2,
        Means::Both => 3,
    };
    let points = report.quality.iter().filter_map(|q| {
        let kl = q.evaluation.divergence?.mean_kl;
        Some((q.name.as_str(), q.means.map_or(0, series), q.bytes, kl, q.tokens_per_second))
    });
    let points: Vec<_> = points.collect();
    if points.len() < 2 {
        return None;
    }
    let own = report.quality.first().map(|q| q.name.as_str());
    let mark = |&(name, series, size, kl, speed): &(&str, usize, u64, f64, Option<f64>), x: f64| {
        let speed = speed.map_or(String::new(), |s| format!(", {} tokens/s", digits(s)));
        let said = format!("{name}: {}, mean KL {}{speed}", bytes(size as f64), digits(kl));
        Mark { x, y: kl, series, label: name.to_owned(), said, own: Some(name) == own }
    };
    let by_size: Vec<Mark> = points.iter().map(|p| mark(p, p.2 as f64)).collect();
    let by_speed: Vec<Mark> = points.iter().filter_map(|p| Some(mark(p, p.4?))).collect();
    let mut out = Markup::default();
    out.raw("<div class=\"figures\">\n");
    let words = Words {
        summary: "Mean KL divergence against size of the file",
        x: "size of the file",
        y: "mean KL, nats",
    };
    let plot = plot::scatter(&words, &by_size, &NAMES, tick_bytes, tick);
    figure(&mut out, &plot, "Down and to the left is better. The ring is this file.");
    if by_speed.len() > 1 {
        let words = Words {
            summary: "Mean KL divergence against decode speed",
            x: "tokens a second",
            y: "mean KL, nats",
        };
        let plot = plot::scatter(&words, &by_speed, &NAMES, tick, tick);
        figure(&mut out, &plot, "Down and to the right is better.");
    }
    out.raw("</div>\n");
    Some(out)
}

fn tick_bytes(n: f64) -> String {
    let (n, unit) = match n {
        n if n < 1e3 => (n, "B"),
        n if n < 1e6 => (n / 1e3, "kB"),
        n if n < 1e9 => (n / 1e6, "MB"),
        n => (n / 1e9, "GB"),
    };
    format!("{} {unit}", tick(n))
}

/// What rounding each component alone costs.
pub(super) fn sensitivity(report: &Report) -> Option<Markup> {
    let mut all: Vec<_> = report.record.sensitivity.iter().collect();
    if all.is_empty() {
        return None;
    }
    all.sort_by(|a, b| b.mean_kl.total_cmp(&a.mean_kl));
    let left_out = all.len().saturating_sub(MOST_DOTS);
    all.truncate(MOST_DOTS);
    let rows: Vec<_> = all
        .iter()
        .map(|s| (format!("{} · {}", s.name, s.format), s.mean_kl, format!("nats in {}", s.format)))
        .collect();
    let words = Words {
        summary: "Mean KL divergence when one component alone is rounded",
        x: "mean KL, nats",
        y: "",
    };
    let mut caption =
        "Mean KL divergence from the f32 checkpoint when this component alone is rounded."
            .to_owned();
    if left_out > 0 {
        caption += &format!(" {left_out} components with less are left out.");
    }
    let mut out = Markup::default();
    out.raw("<div class=\"figures\">\n");
    figure(&mut out, &plot::dots(&words, &rows), &caption);
    out.raw("</div>\n");
    Some(out)
}

type Figure = fn(&BlockFigures) -> Option<f64>;

/// What was measured of each block, and how well it foretells the damage.
const FIGURES: [(&str, &str, Figure); 5] = [
    (
        "plasticity",
        "Plasticity: the mean of |f(x) − f(y)| / |x − y| over pairs of states where the block \
         lies.",
        |b| b.plasticity,
    ),
    ("plasticity on embeddings", "The same on pairs of token embeddings.", |b| {
        b.plasticity_on_embeddings
    }),
    (
        "block influence",
        "Block influence: 1 − the mean cosine of the stream before and after the block.",
        |b| b.influence,
    ),
    (
        "KL without the block, nats",
        "The damage, measured: mean KL divergence from f32 when the block is left out.",
        |b| b.damage,
    ),
    (
        "KL of rounding, nats",
        "The damage of rounding: the sum of what each of the block's two products does alone in \
         the coarsest format tried.",
        |b| b.rounding,
    ),
];

/// Plasticity and influence of the blocks, beside the damage.
pub(super) fn blocks(report: &Report) -> Option<Markup> {
    let blocks = &report.record.blocks;
    let shown: Vec<_> = FIGURES
        .iter()
        .filter(|(_, _, get)| blocks.iter().filter(|b| get(b).is_some()).count() > 1)
        .collect();
    if shown.is_empty() {
        return None;
    }
    let last = blocks.iter().map(|b| b.place.layer).max()?;
    let layers: Vec<String> = (0..=last).map(|layer| layer.to_string()).collect();
    let mut kinds: Vec<(usize, Part)> =
        blocks.iter().map(|b| (b.place.stack, b.place.part)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let mut out = Markup::default();
    out.raw("<p>").text(predictions(blocks)).raw("</p>\n<div class=\"figures\">\n");
    for (title, caption, get) in shown {
        let line = |&(stack, part): &(usize, Part)| {
            let point = |layer| {
                let place = Place { stack, layer, part };
                let value = get(blocks.iter().find(|b| b.place == place)?)?;
                Some((value, format!("{}: {}", self::name(Some(place)), digits(value))))
            };
            let of = if stack > 0 { format!("stack {stack} ") } else { String::new() };
            Line { name: format!("{of}{part}"), points: (0..=last).map(point).collect() }
        };
        let lines: Vec<Line> =
            kinds.iter().map(line).filter(|l| l.points.iter().any(Option::is_some)).collect();
        let words = Words { summary: title, x: "layer", y: title };
        figure(&mut out, &plot::lines(&words, &layers, &lines, tick), caption);
    }
    out.raw("</div>\n");
    Some(out)
}

/// The rank correlation of each predictor with both damages.
fn predictions(blocks: &[BlockFigures]) -> String {
    let damages: [(&str, Figure); 2] =
        [("leaving a block out", |b| b.damage), ("rounding its products", |b| b.rounding)];
    let sentence = |(what, damage): (&str, Figure)| {
        let predictor = |&(title, _, get): &(&str, &str, Figure)| {
            let pairs: Vec<_> = blocks.iter().filter_map(|b| Some((get(b)?, damage(b)?))).collect();
            correlation(&pairs).map(|r| format!("{title} {r:.2}").replace('-', "−"))
        };
        let found: Vec<String> = FIGURES[..3].iter().filter_map(predictor).collect();
        (!found.is_empty()).then(|| format!("with the damage of {what}: {}", found.join(", ")))
    };
    let found: Vec<String> = damages.into_iter().filter_map(sentence).collect();
    if found.is_empty() {
        return String::new();
    }
    format!("Rank correlation (Spearman) over {} blocks {}.", blocks.len(), found.join("; "))
}

/// Prompts, and where the continuations part.
pub(super) fn prompts(report: &Report) -> Option<Markup> {
    let prompts = &report.prompts;
    if prompts.is_empty() {
        return None;
    }
    let mut out = Markup::default();
    out.raw("<p>").text(parting(prompts)).raw("</p>\n");
    for prompt in prompts {
        out.raw("<div class=\"prompt\">\n<h3>")
            .text(&prompt.text)
            .raw(" …</h3>\n<div class=\"pair\">\n");
        for (name, pieces) in [("f32", &prompt.reference), ("this file", &prompt.model)] {
            out.raw("<p><b>").raw(name).raw("</b>");
            let at = prompt.parts_at.unwrap_or(pieces.len()).min(pieces.len());
            out.text(pieces[..at].concat());
            if let Some(piece) = pieces.get(at) {
                // A line end has no width to be marked.
                let shown = if piece.trim().is_empty() {
                    piece.replace('\n', "⏎\n")
                } else {
                    piece.clone()
                };
                out.raw("<mark title=\"the first token that differs\">").text(shown).raw("</mark>");
                out.raw("<span class=\"after\">").text(pieces[at + 1..].concat()).raw("</span>");
            }
            out.raw("</p>\n");
        }
        out.raw("</div>\n</div>\n");
    }
    Some(out)
}

fn parting(prompts: &[Prompt]) -> String {
    let mut parted: Vec<usize> = prompts.iter().filter_map(|p| p.parts_at).collect();
    parted.sort_unstable();
    let how =
        "The most probable token is taken each time; where the two part, the token is marked.";
    match parted.get(parted.len() / 2) {
        None => format!("{how} All {} continuations are the same to the end.", prompts.len()),
        Some(median) => format!(
            "{how} {} of {} continuations are the same to the end; the others have {median} tokens \
             in common in the median.",
            prompts.len() - parted.len(),
            prompts.len()
        ),
    }
}
