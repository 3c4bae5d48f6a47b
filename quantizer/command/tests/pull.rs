//! `kinglet pull` against a hub of a few lines on this machine.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

/// The files of the repository `owner/model`.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let shard = |byte: u8| vec![byte; 100_000];
    vec![
        ("README.md", b"not fetched".to_vec()),
        ("config.json", b"{\"a\": 1}".to_vec()),
        ("model-00001-of-00002.safetensors", shard(1)),
        ("model-00002-of-00002.safetensors", shard(2)),
        ("model.safetensors.index.json", b"{}".to_vec()),
        ("q/small.gguf", b"GGUF...".to_vec()),
        ("tokenizer.json", b"{\"b\": 2}".to_vec()),
    ]
}

/// Serves requests, one after the other, for as long as the test runs; says where.
fn hub() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(|stream| answer(stream.unwrap())));
    format!("http://{address}")
}

fn answer(mut stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
    let request = lines.next().unwrap_or_default();
    let head: Vec<String> =
        lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let listing = |sha: &str| {
        let siblings: Vec<_> = files()
            .into_iter()
            .map(|(name, bytes)| serde_json::json!({"rfilename": name, "size": bytes.len()}))
            .collect();
        serde_json::json!({"sha": sha, "siblings": siblings}).to_string().into_bytes()
    };
    let (status, extra, body) = match path.as_str() {
        "/api/models/owner/model/revision/main?blobs=true"
        | "/api/models/owner/gated/revision/main?blobs=true"
        | "/api/models/owner/content/revision/main?blobs=true" => {
            (200, String::new(), listing(SHA))
        }
        "/api/models/owner/commit/revision/main?blobs=true" => {
            (200, String::new(), listing("../../../../escaped"))
        }
        "/api/models/owner/nobody/revision/main?blobs=true" => (401, String::new(), vec![]),
        _ => file(&path, &head),
    };
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {length}\r\n{extra}\r\n"
    );
    let _ = stream.write_all(&body);
}

/// What the hub calls the content of a file.
fn tag(name: &str) -> String {
    name.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// A file, or the part of it that is asked for; gated ones want a token, and one repository calls
/// its contents by paths.
fn file(path: &str, head: &[String]) -> (u16, String, Vec<u8>) {
    let hostile = path.starts_with("/owner/content/");
    let open = hostile
        || path.starts_with("/owner/model/")
        || head.iter().any(|line| line == "authorization: bearer secret");
    let name = path.split_once(&format!("/resolve/{SHA}/")).map(|(_, name)| name);
    let Some((name, bytes)) = files().into_iter().find(|(file, _)| Some(*file) == name) else {
        return (404, String::new(), vec![]);
    };
    if !open {
        return (403, String::new(), vec![]);
    }
    let range = head.iter().find_map(|line| line.strip_prefix("range: bytes=")).unwrap_or("0-");
    let (start, end) = range.split_once('-').unwrap();
    let start: usize = start.parse().unwrap();
    if start > bytes.len() {
        return (416, String::new(), vec![]);
    }
    let end = end.parse().map_or(bytes.len(), |last: usize| bytes.len().min(last + 1));
    let extra = format!(
        "ETag: \"{}\"\r\nX-Repo-Commit: {SHA}\r\nContent-Range: bytes {start}-{}/{}\r\n",
        if hostile { "../../../../escaped".to_owned() } else { tag(name) },
        end.saturating_sub(1),
        bytes.len()
    );
    (206, extra, bytes[start..end].to_vec())
}

fn pull(endpoint: &str, home: &Path, token: Option<&str>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinglet"));
    command
        .arg("pull")
        .args(args)
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HOME", home)
        .env_remove("HF_TOKEN");
    for proxy in ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"] {
        command.env_remove(proxy).env_remove(proxy.to_lowercase());
    }
    command.envs(token.map(|token| ("HF_TOKEN", token))).output().unwrap()
}

#[track_caller]
fn good(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn bad(output: Output) -> String {
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("kinglet: ") && !said.contains("panicked"), "{said}");
    said
}

#[test]
fn what_an_import_needs_is_fetched() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let dir = home.path().join("my model");
    let name = dir.to_str().unwrap();
    let said = good(pull(&hub, home.path(), None, &["owner/model", "-o", name]));
    assert!(said.contains("5 files, 200.0 kB"), "{said}");
    assert!(
        said.ends_with(&format!("next: kinglet quantize '{name}' -o model.kinglet\n")),
        "{said}"
    );
    for (name, bytes) in files() {
        let fetched = std::fs::read(dir.join(name)).ok();
        assert_eq!(
            fetched,
            Some(bytes).filter(|_| name != "README.md" && !name.ends_with("gguf")),
            "{name}"
        );
    }
    // Again, from the cache, over what is there.
    good(pull(&hub, home.path(), None, &["owner/model", "-o", name]));
    // Into the cache alone.
    let said = good(pull(&hub, home.path(), None, &["owner/model"]));
    let (_, snapshot) = said.split_once("next: kinglet quantize ").unwrap();
    let snapshot = Path::new(snapshot.split(' ').next().unwrap());
    assert_eq!(std::fs::read(snapshot.join("config.json")).unwrap(), b"{\"a\": 1}");
}

#[test]
fn one_file_is_fetched_by_its_name() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let said = good(pull(&hub, home.path(), None, &["owner/model", "--file", "q/small.gguf"]));
    let (_, path) = said.split_once("next: kinglet quantize ").unwrap();
    assert_eq!(std::fs::read(path.split(' ').next().unwrap()).unwrap(), b"GGUF...");
    let said = bad(pull(&hub, home.path(), None, &["owner/model", "--file", "other.gguf"]));
    assert!(said.contains("no file other.gguf") && said.contains("q/small.gguf"), "{said}");
}

#[test]
fn what_goes_wrong_is_said() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let said = |endpoint: &str, token, args: &[&str]| bad(pull(endpoint, home.path(), token, args));
    assert!(said(&hub, None, &["model"]).contains("OWNER/NAME"));
    assert!(said(&hub, None, &["../../etc"]).contains("OWNER/NAME"));
    assert!(said(&hub, None, &["owner/nobody"]).contains("no repository owner/nobody"));
    let revision = said(&hub, None, &["owner/model", "--revision", "v9"]);
    assert!(revision.contains("no revision v9"), "{revision}");
    let gated = said(&hub, None, &["owner/gated"]);
    assert!(
        gated.contains("gated") && gated.contains("HF_TOKEN") && gated.contains("/owner/gated"),
        "{gated}"
    );
    let nowhere = said("http://127.0.0.1:1", None, &["owner/model"]);
    assert!(
        nowhere.contains("cannot reach http://127.0.0.1:1") && nowhere.contains("HF_ENDPOINT"),
        "{nowhere}"
    );
    good(pull(&hub, home.path(), Some("secret"), &["owner/gated"]));
}

/// All that lies below a directory.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { tree(&path) } else { vec![path] }).collect()
}

/// What a hub calls a commit or a content becomes a part of paths.
#[test]
fn a_hostile_hub_writes_nothing_beside_its_cache() {
    let (hub, outer) = (hub(), tempfile::tempdir().unwrap());
    let home = outer.path().join("a/b/c/d");
    std::fs::create_dir_all(&home).unwrap();
    let said = bad(pull(&hub, &home, None, &["owner/commit"]));
    assert!(said.contains("commit") && said.contains("escaped"), "{said}");
    let said = bad(pull(&hub, &home, None, &["owner/content"]));
    assert!(said.contains("ETag") && said.contains("escaped"), "{said}");
    assert_eq!(tree(outer.path()), Vec::<PathBuf>::new());
}

#[test]
fn what_was_cut_goes_on() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let folder = home.path().join("hub/models--owner--model");
    let name = "model-00001-of-00002.safetensors";
    let part = folder.join("blobs").join(tag(name) + ".part");
    std::fs::create_dir_all(part.parent().unwrap()).unwrap();
    // Other bytes than the hub's, so that they show.
    std::fs::write(&part, [9; 40_000]).unwrap();
    good(pull(&hub, home.path(), None, &["owner/model"]));
    let fetched = std::fs::read(folder.join("snapshots").join(SHA).join(name)).unwrap();
    assert_eq!(fetched, [vec![9; 40_000], vec![1; 60_000]].concat());
    assert!(!part.exists());
    assert_eq!(std::fs::read_to_string(folder.join("refs/main")).unwrap(), SHA);
    // A part that is longer than the file.
    let part = folder.join("blobs").join(tag("q/small.gguf") + ".part");
    std::fs::write(&part, [9; 100]).unwrap();
    let said = bad(pull(&hub, home.path(), None, &["owner/model", "--file", "q/small.gguf"]));
    assert!(said.contains("longer than the file") && said.contains(".part"), "{said}");
}
