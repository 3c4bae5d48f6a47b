//! What is not read, and what is said about it.

use kinglet_import::checkpoint::CheckpointError;

use super::support::{File, Value, open, string, tensor};

/// Asserts that a file is refused in these words.
#[track_caller]
fn says(file: &File, words: &[&str]) {
    let error = file.error();
    let message = error.to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[test]
fn other_files_are_named() {
    for bytes in [&b""[..], b"GG", b"GGML", b"PK\x03\x04 an archive"] {
        let error = open(bytes).unwrap_err();
        assert!(matches!(error, CheckpointError::NotACheckpoint { .. }), "{error:?}");
    }
}

#[test]
fn versions_are_told_apart() {
    says(&File { version: 1, ..File::new() }, &["version 1", "convert the model again"]);
    says(&File { version: 4, ..File::new() }, &["version 4", "2 and 3"]);
    says(&File { version: 3_u32.swap_bytes(), ..File::new() }, &["version 3", "big-endian"]);
}

#[test]
fn architectures_are_named() {
    says(
        &File::new().with("general.architecture", Value::Text("gemma3")),
        &["gemma3", "llama, qwen2, qwen3"],
    );
    says(&File::new().without("general.architecture"), &["general.architecture"]);
    says(&File::new().with("split.count", Value::U32(3)), &["split.count", "--merge"]);
}

#[test]
fn settings_are_named_as_the_file_spells_them() {
    for key in [
        "embedding_length",
        "block_count",
        "context_length",
        "attention.head_count",
        "feed_forward_length",
    ] {
        let key = format!("llama.{key}");
        says(&File::new().without(&key), &[&key, "missing"]);
        says(&File::new().with(&key, Value::Text("many")), &[&key, "many"]);
        says(
            &File::new().with(&key, Value::Raw(9, [4_u32.to_le_bytes(), [0; 4], [0; 4]].concat())),
            &[&key, "list"],
        );
    }
    let eps = "llama.attention.layer_norm_rms_epsilon";
    says(&File::new().without(eps), &[eps]);
    says(&File::new().with(eps, Value::F32(f32::NAN)), &[eps, "NaN"]);
    says(
        &File::new().with("llama.attention.head_count_kv", Value::U32(3)),
        &["head_count_kv", "divisor"],
    );
    says(&File::new().with("llama.rope.dimension_count", Value::U32(2)), &["rope.dimension_count"]);
    says(
        &File::new().with("llama.attention.value_length", Value::U32(8)),
        &["attention.value_length"],
    );
    says(
        &File::new().with("llama.attention.causal", Value::Raw(7, vec![0])),
        &["attention.causal"],
    );
    File::new().with("llama.attention.causal", Value::Raw(7, vec![1])).open().unwrap();
    says(&File::new().with("llama.expert_count", Value::U32(8)), &["llama.expert_count", "dense"]);
    says(
        &File::new().with("llama.rope.scaling.type", Value::Text("longrope")),
        &["rope.scaling.type", "longrope"],
    );
    says(
        &File::new().with("tokenizer.ggml.bos_token_id", Value::U32(10)),
        &["tokenizer.ggml.bos_token_id", "10"],
    );
}

#[test]
fn tensors_are_named() {
    let mut file = File::new();
    file.tensors.retain(|tensor| tensor.name != "blk.0.ffn_up.weight");
    says(&file, &["blk.0.ffn_up.weight", "missing"]);
    let mut file = File::new();
    file.tensors.push(tensor("blk.0.ffn_gate_inp.weight", &[8, 2]));
    says(&file, &["blk.0.ffn_gate_inp.weight"]);
    says(
        &File::new().bent("blk.0.ffn_up.weight", |t| t.dimensions = vec![6, 8]),
        &["ffn_up", "[6, 8]", "[8, 6]"],
    );
    says(&File::new().bent("blk.0.ffn_up.weight", |t| t.kind = 10), &["ffn_up", "Q2_K", "Q4_K"]);
    says(&File::new().bent("blk.0.ffn_up.weight", |t| t.kind = 4711), &["ffn_up", "4711"]);
    says(&File::new().bent("blk.0.ffn_up.weight", |t| t.kind = 8), &["ffn_up", "blocks"]);
    let mut file = File::new();
    file.tensors.push(tensor("rope_freqs.weight", &[3]));
    says(&file, &["rope_freqs.weight", "[2]"]);
    file.tensors.pop();
    file.tensors.push(tensor("rope_freqs.weight", &[2]));
    // Its first number is zero.
    says(&file, &["rope_freqs.weight", "finite"]);
}

#[test]
fn places_are_checked() {
    says(&File::new().bent("blk.0.ffn_up.weight", |t| t.offset = Some(0)), &["overlap", "ffn_up"]);
    says(
        &File::new().bent("blk.0.ffn_up.weight", |t| t.offset = Some(8)),
        &["ffn_up", "alignment"],
    );
    for offset in [1 << 20, 1 << 40, u64::MAX - 31] {
        says(
            &File::new().bent("blk.0.ffn_up.weight", |t| t.offset = Some(offset)),
            &["ffn_up", "beyond the end"],
        );
    }
    for sizes in [vec![8, 1 << 40], vec![1 << 63, 2], vec![u64::MAX, u64::MAX, u64::MAX, u64::MAX]]
    {
        says(
            &File::new().bent("blk.0.ffn_up.weight", |t| t.dimensions = sizes.clone()),
            &["ffn_up"],
        );
    }
    for sizes in [vec![], vec![0, 8], vec![1; 5], vec![1; 100_000]] {
        says(
            &File::new().bent("blk.0.ffn_up.weight", |t| t.dimensions = sizes.clone()),
            &["ffn_up"],
        );
    }
    for alignment in [0, 3, 48] {
        says(&File::new().with("general.alignment", Value::U32(alignment)), &["general.alignment"]);
    }
    says(&File::new().with("general.alignment", Value::U32(1 << 31)), &["alignment"]);
}

#[test]
fn what_is_there_twice_is_refused() {
    let mut file = File::new();
    file.tensors.push(tensor("output.weight", &[8, 10]));
    says(&file, &["output.weight", "twice"]);
    let mut file = File::new();
    file.keys.push((b"llama.block_count".to_vec(), Value::U32(1)));
    says(&file, &["llama.block_count", "twice"]);
}

#[test]
fn absurd_counts_and_lengths_are_refused() {
    for count in [65_537, 1 << 40, u64::MAX] {
        says(&File { counts: [Some(count), None], ..File::new() }, &["tensors"]);
        says(&File { counts: [None, Some(count)], ..File::new() }, &["keys"]);
    }
    // More than there are, but not absurd.
    for counts in [[Some(60_000), None], [None, Some(60_000)]] {
        let error = File { counts, ..File::new() }.error();
        assert!(
            matches!(error, CheckpointError::Gguf { .. } | CheckpointError::GgufType { .. }),
            "{error:?}"
        );
    }
    for length in [1_000_000_u64, 1 << 40, u64::MAX] {
        says(&File::new().with("x", Value::Raw(8, length.to_le_bytes().to_vec())), &["bytes"]);
        for item in [0_u32, 4, 8, 10] {
            let list = [&item.to_le_bytes()[..], &length.to_le_bytes()].concat();
            says(&File::new().with("x", Value::Raw(9, list)), &["wrong at byte"]);
        }
    }
}

#[test]
fn strings_and_values_are_checked() {
    let mut file = File::new();
    file.keys.push((b"\xff\xfe".to_vec(), Value::U32(1)));
    says(&file, &["UTF-8"]);
    says(&File::new().with("x", Value::Raw(8, string(b"\xc3"))), &["UTF-8"]);
    says(&File::new().with("x", Value::Raw(13, vec![0; 8])), &["type 13"]);
    says(&File::new().with("x", Value::Raw(7, vec![2])), &["flag"]);
    let lists = [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes(), &[0; 64]].concat();
    says(&File::new().with("x", Value::Raw(9, lists)), &["type 9"]);
    // All kinds of values that are read, and all lists.
    let mut file = File::new();
    for (kind, size) in
        [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)]
    {
        file = file.with(&format!("x.{kind}"), Value::Raw(kind, vec![0; size]));
        let list = [&kind.to_le_bytes()[..], &3_u64.to_le_bytes(), &vec![0; 3 * size]].concat();
        file = file.with(&format!("x.list.{kind}"), Value::Raw(9, list));
    }
    file.open().unwrap();
}
