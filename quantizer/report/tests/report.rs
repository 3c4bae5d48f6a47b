//! The page of a report: complete, closed, escaped, the same each time, and without what is not
//! there.

use kinglet_evaluate::{
    Agreement, Divergence, Evaluation, Hidden, Nearness, Outputs, Part, Place, Protocol, StateError,
};
use kinglet_report::*;

const HOSTILE: &str =
    "</title><script src=\"http://x\">alert('1')</script>\" onload=x <!--\u{0}\u{202e}&amp;";

fn place(layer: usize, part: Part) -> Place {
    Place { stack: 0, layer, part }
}

const DIVERGENCE: Divergence = Divergence {
    mean_kl: 0.0123,
    p99_kl: 0.2,
    max_kl: 1.5,
    top1_agreement: 0.93,
    top5_agreement: 0.9991,
    reference_perplexity: 4.668,
};

/// The blocks of the model.
fn places() -> Vec<Place> {
    (0..4).flat_map(|l| [place(l, Part::Attention), place(l, Part::FeedForward)]).collect()
}

fn evaluation() -> Evaluation {
    let error = |i: usize| 0.004 * 1.5f64.powi(i as i32);
    let state =
        |(i, after)| StateError { after, relative_error: error(i), cosine: 1.0 - error(i) / 50.0 };
    let states = [None].into_iter().chain(places().into_iter().map(Some)).enumerate().map(state);
    Evaluation {
        tokens: 20_000,
        mean_nll: 1.55,
        perplexity: 4.71,
        divergence: Some(DIVERGENCE),
        from_first: None,
        hidden: Some(Hidden { tokens: 20_000, states: states.collect() }),
    }
}

fn quality(name: &str, bytes: u64, means: Means, evaluation: Evaluation) -> Quality {
    let (means, tokens_per_second) = (Some(means), Some(1e9 / bytes as f64));
    Quality { name: name.to_owned(), bytes, means, tokens_per_second, evaluation }
}

fn record(name: &str) -> Record {
    let block = |(i, place): (usize, Place)| BlockFigures {
        place,
        plasticity: Some(0.5 + 0.1 * i as f64),
        plasticity_on_embeddings: Some(0.4 + 0.05 * i as f64),
        influence: Some(0.3 / (1 + i) as f64),
        damage: Some(0.01 * (1 + i) as f64),
        rounding: Some(0.002 * (3 + i) as f64),
    };
    let tensor = Tensor {
        name: name.to_owned(),
        rows: 64,
        cols: 64,
        format: name.to_owned(),
        bits: 4.25,
        rounding: Some(name.to_owned()),
        error: Some(0.03),
        sparsity: Some(0.25),
        reason: Some(name.to_owned()),
    };
    let (format, mean_kl) = (name.to_owned(), 0.01);
    Record {
        notes: vec![Note { what: name.to_owned(), how: name.to_owned() }],
        tensors: vec![tensor],
        sensitivity: vec![Sensitivity { name: name.to_owned(), format, mean_kl }],
        blocks: places().into_iter().enumerate().map(block).collect(),
    }
}

fn agreed(name: &str) -> Agreed {
    let nearness = Nearness::Vectors { mean_cosine: 0.998, least_cosine: 0.99 };
    let agreement = Agreement { kind: Outputs::Vectors, samples: 20, outputs: 20, nearness };
    Agreed { name: name.to_owned(), bytes: 190_100, on: name.to_owned(), agreement }
}

/// A prompt that both models answer differently, and one that they answer alike.
fn prompts(name: &str) -> Vec<Prompt> {
    let text = |n: usize| -> Vec<String> { (0..n).map(|i| format!(" {name}{i}")).collect() };
    vec![
        Prompt { text: name.to_owned(), reference: text(5), model: text(4), parts_at: Some(2) },
        Prompt { text: "same".into(), reference: text(3), model: text(3), parts_at: None },
    ]
}

/// A report with everything in it; `name` wherever a file can bring a text.
fn full(name: &str) -> Report {
    let other = Evaluation { from_first: Some(DIVERGENCE), ..evaluation() };
    Report {
        name: name.to_owned(),
        model: Some(ModelFacts {
            family: name.to_owned(),
            width: 64,
            vocab: 512,
            context: 256,
            blocks: 8,
            checkpoint_blocks: Some(10),
        }),
        size: Some(Size {
            f32_bytes: Some(1_044_992),
            file_bytes: 190_100,
            weights: 259_328,
            bits_per_weight: 4.3,
        }),
        speed: Some(Speed {
            tokens_per_second: 9000.0,
            isa: name.to_owned(),
            threads: 2,
            tokens: 64,
            rounds: 5,
        }),
        text: Some(Text {
            name: name.to_owned(),
            protocol: Protocol { window: 255, bos: Some(1), int4_values: false },
        }),
        quality: vec![
            quality(name, 190_100, Means::Both, evaluation()),
            quality("other", 292_800, Means::Pruned, other.clone()),
            quality("third", 282_800, Means::Quantized, other),
        ],
        components: vec![Component { name: name.to_owned(), bytes: 100_000, weights: 200_000 }],
        record: record(name),
        agreement: vec![agreed(name)],
        prompts: prompts(name),
    }
}

/// Checks that every element is closed, in order, and returns the names of all.
fn elements(html: &str) -> Vec<String> {
    let (mut open, mut all) = (vec![], vec![]);
    let style = html.find("<style>").unwrap()..html.find("</style>").unwrap();
    let body = format!("{}{}", &html[..style.start], &html[style.end + "</style>".len()..]);
    for tag in body.split('<').skip(1) {
        let (tag, after) = tag.split_once('>').expect("a tag ends");
        assert!(!after.contains('>'), "a stray >: {after}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name =
            tag.split(|c: char| !c.is_ascii_alphanumeric() && c != '/' && c != '!').next().unwrap();
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "</{name}>");
        } else if !tag.ends_with('/') && !["meta", "!doctype"].contains(&name) {
            open.push(name.to_owned());
        }
        all.push(name.to_owned());
    }
    assert!(open.is_empty(), "{open:?}");
    all
}

#[test]
fn the_page_is_closed_and_loads_nothing() {
    let html = html(&full("stories260K"));
    for foreign in ["http:", "https:", "src=", "url(", "@import", "<script", "<link", "javascript:"]
    {
        assert!(!html.contains(foreign), "{foreign}");
    }
    let elements = elements(&html);
    let count = |name: &str| elements.iter().filter(|e| *e == name).count();
    assert_eq!((count("section"), count("svg"), count("figure")), (10, 9, 9), "{elements:?}");
    assert_eq!((count("figcaption"), count("mark")), (9, 2));
    assert_eq!(html.matches("role=\"img\" aria-label=\"").count(), 9);
    // What the figures say: correlation, parting, sizes, agreement.
    for said in [
        "over 8 blocks with the damage of leaving a block out: plasticity 1.00",
        "block influence −1.00",
        "1 of 2 continuations",
        "190 kB",
        "99.91%",
        "8 of 10 blocks",
    ] {
        assert!(html.contains(said), "{said} is not in {html}");
    }
}

#[test]
fn hostile_texts_stay_texts() {
    let html = html(&full(HOSTILE));
    let elements = elements(&html);
    assert!(!elements.iter().any(|e| e == "script"));
    assert!(!html.contains('\0') && !html.contains("<!--"));
    let harmless = elements_of(&full(&"x".repeat(HOSTILE.chars().count())));
    assert!(elements == harmless, "a text changed the structure of the page");
}

fn elements_of(report: &Report) -> Vec<String> {
    elements(&html(report))
}

#[test]
fn the_same_report_gives_the_same_bytes() {
    let report = full("m");
    let json = serde_json::to_string(&report).unwrap();
    let read: Report = serde_json::from_str(&json).unwrap();
    assert_eq!((&read.prompts, &read.record.notes), (&report.prompts, &report.record.notes));
    assert!(html(&read) == html(&report));
}

#[test]
fn what_is_not_there_has_no_section() {
    let nothing = elements_of(&Report { name: "m".into(), ..Report::default() });
    for part in ["section", "table", "svg", "dl", "p"] {
        assert!(!nothing.iter().any(|e| e == part), "{part}");
    }
    type Clear = fn(&mut Report);
    let parts: [(&str, Clear); 9] = [
        ("What was done", |r| r.record.notes.clear()),
        ("Hidden states", |r| r.quality.iter_mut().for_each(|q| q.evaluation.hidden = None)),
        ("Sensitivity", |r| r.record.sensitivity.clear()),
        ("Blocks", |r| r.record.blocks.clear()),
        ("Where the bytes are", |r| r.components.clear()),
        ("Tensors", |r| r.record.tensors.clear()),
        ("Side by side", |r| r.prompts.clear()),
        ("Quality", |r| r.quality.clear()),
        ("Agreement with f32", |r| r.agreement.clear()),
    ];
    for (title, clear) in parts {
        let title = format!("<h2>{title}</h2>");
        let mut report = full("m");
        assert!(html(&report).contains(&title));
        clear(&mut report);
        assert!(!html(&report).contains(&title), "{title}");
        elements_of(&report);
    }
}

#[test]
fn a_record_may_be_partial_and_newer() {
    let json = r#"{"tensors": [{"name": "t", "format": "int2", "bits": 2.5, "later": 1}], "blocks": [{"place": {"layer": 1,
        "part": "feed-forward"}, "damage": 0.5}]}"#;
    let record: Record = serde_json::from_str(json).unwrap();
    assert_eq!(record.blocks[0].place, place(1, Part::FeedForward));
    assert_eq!(record.tensors[0].rows, 0);
    let page = html(&Report { record, ..Report::default() });
    assert!(page.contains("int2") && !page.contains("<h2>Blocks"));
}

#[test]
fn strange_numbers_do_no_harm() {
    for strange in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300] {
        let mut report = full("m");
        report.quality[1].tokens_per_second = Some(strange);
        report.record.blocks[0].plasticity = Some(strange);
        report.record.sensitivity[0].mean_kl = strange;
        report.quality[0].evaluation.perplexity = strange;
        report.quality[0].evaluation.hidden.as_mut().unwrap().states[0].relative_error = strange;
        let page = html(&report);
        elements(&page);
        assert!(!page.contains("NaN") && !page.contains("inf\""), "{strange}");
    }
}
