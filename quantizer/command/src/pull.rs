//! `kinglet pull`: fetches what an import needs.
//!
//! All files come from one commit: that of the revision when its list was fetched.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, anyhow, bail};

use crate::hub::{Hub, HubError, Listing, Sibling, endpoint};
use crate::model::bytes;

/// Fetch a model from the Hugging Face Hub
///
/// Only what `kinglet quantize` reads is fetched: configuration, safetensors and tokenizer, or one
/// GGUF file. Files are stored in the cache shared with other Hugging Face tools (HF_HOME) and, if
/// given, in the output directory. Set HF_TOKEN for gated and private repositories, HF_ENDPOINT for
/// another hub.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The repository on the Hub
    #[arg(value_name = "OWNER/NAME")]
    repository: String,
    /// A branch, tag or commit
    #[arg(long, value_name = "REVISION", default_value = "main")]
    revision: String,
    /// A directory to place the files in, in addition to the cache
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Fetch this GGUF file and nothing else
    #[arg(long, value_name = "X.gguf")]
    file: Option<String>,
}

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Fetched where they exist.
const COMPANIONS: &[&str] = &[
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
];

impl Args {
    pub(crate) fn run(self) -> Result<()> {
        let parts: Vec<&str> = self.repository.split('/').collect();
        let plain = |part: &&str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        if parts.len() != 2 || !parts.iter().all(plain) {
            bail!(
                "{:?} is not a repository: expected OWNER/NAME, as in HuggingFaceTB/SmolLM2-135M",
                self.repository
            );
        }
        let hub = Hub::from_env().context("there is no place for a cache: set HF_HOME")?;
        let listing = self.listing(&hub)?;

        let files = select(&listing.siblings, self.file.as_deref())
            .with_context(|| format!("cannot import {}", self.repository))?;
        let total: u64 = files.iter().filter_map(|file| file.size).sum();
        say!(
            "{} at {}: {} files, {}",
            self.repository,
            short(&listing.sha),
            files.len(),
            bytes(total)
        );
        let mut fetched = vec![];
        for file in &files {
            let name = &file.rfilename;
            let path = hub.fetch(&self.repository, &listing.sha, name).map_err(|error| {
                self.explain(&hub, error).context(format!("cannot fetch {name}"))
            })?;
            fetched.push(match &self.output {
                Some(dir) => place(&path, dir)?,
                None => path,
            });
            say!("  {name} {}", file.size.map(bytes).unwrap_or_default());
        }
        let remembered = hub.remember(&self.repository, &self.revision, &listing.sha);
        remembered.map_err(|error| self.explain(&hub, error))?;
        self.say_next(&fetched);
        Ok(())
    }

    /// The files of the revision.
    fn listing(&self, hub: &Hub) -> Result<Listing> {
        hub.list(&self.repository, &self.revision).map_err(|error| match status(&error) {
            Some(404) => {
                anyhow!("{} has no revision {}, or does not exist", self.repository, self.revision)
            }
            // The hub does not tell strangers what exists.
            Some(401 | 403) => anyhow!(
                "there is no repository {}, or it is private: check the name; \
                 if it is yours, set HF_TOKEN to your token (or log in with `hf auth login`)",
                self.repository
            ),
            _ => self.explain(hub, error),
        })
    }

    /// What went wrong, and what to do about it.
    fn explain(&self, hub: &Hub, error: HubError) -> Error {
        match (status(&error), error) {
            (Some(401 | 403), _) => anyhow!(
                "access to {0} is gated: accept its terms at {1}/{0}, \
                 then set HF_TOKEN to your token (or log in with `hf auth login`)",
                self.repository,
                endpoint()
            ),
            (Some(status), _) => {
                anyhow!("{} answers with status {status}: try again later", endpoint())
            }
            (None, HubError::Request(error)) => anyhow!(
                "cannot reach {}: {error}; check the network and its proxy (HTTPS_PROXY), or set \
                 HF_ENDPOINT to a mirror",
                endpoint()
            ),
            (None, HubError::Disk(error)) if error.kind() == ErrorKind::StorageFull => anyhow!(
                "no room is left on the disk of {}: make room, or set HF_HOME to a directory on \
                 another disk; \
                 what was fetched stays and will not be fetched again",
                hub.cache().display()
            ),
            (None, HubError::Disk(error)) => {
                anyhow!("cannot write to {}: {error}", hub.cache().display())
            }
            (None, HubError::Cut(error)) => {
                anyhow!("the download was interrupted ({error}): try again to resume it")
            }
            (None, HubError::Busy(path)) => {
                anyhow!(
                    "another program is fetching the same file (it holds {}): wait for it",
                    path.display()
                )
            }
            (None, HubError::TooLong(path)) => anyhow!(
                "a part of an earlier download is longer than the file: delete {}",
                path.display()
            ),
            (None, error) => anyhow!("{} is no hub, or an incomplete one: {error}", endpoint()),
        }
    }

    /// The command that comes next.
    fn say_next(&self, fetched: &[PathBuf]) {
        let source = match (&self.file, &self.output) {
            (None, Some(dir)) => Some(dir.as_path()),
            (None, None) => fetched.first().and_then(|path| path.parent()),
            (Some(_), _) => fetched.first().map(PathBuf::as_path),
        };
        let name = self.repository.rsplit('/').next().unwrap_or("model");
        let source = source.map(|path| path.display().to_string()).unwrap_or_default();
        say!("next: kinglet quantize {} -o {name}.kinglet", quoted(&source));
    }
}

/// The status that a hub answers with.
fn status(error: &HubError) -> Option<u16> {
    match error {
        HubError::Request(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
    }
}

fn short(sha: &str) -> &str {
    sha.get(..12).unwrap_or(sha)
}

/// As a shell takes it.
fn quoted(path: &str) -> String {
    match path.contains([' ', '\'', '"', '$', '\\', '(', ')', '&', ';']) {
        true => format!("'{}'", path.replace('\'', r"'\''")),
        false => path.to_owned(),
    }
}

/// Puts a file of the cache into a directory: the same file under another name where the disk
/// allows it, else a copy.
fn place(cached: &Path, dir: &Path) -> Result<PathBuf> {
    let target = dir.join(cached.file_name().unwrap_or_default());
    let linked = || {
        std::fs::create_dir_all(dir)?;
        // In the cache the name is a link to the content.
        let content = cached.canonicalize()?;
        match std::fs::remove_file(&target) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::hard_link(&content, &target)
            .or_else(|_| std::fs::copy(&content, &target).map(drop))
    };
    linked().with_context(|| format!("cannot write {}", target.display()))?;
    Ok(target)
}

/// The files that an import needs.
fn select<'l>(files: &'l [Sibling], gguf: Option<&str>) -> Result<Vec<&'l Sibling>> {
    let find = |name: &str| files.iter().find(|file| file.rfilename == name);
    if let Some(name) = gguf {
        return match find(name) {
            Some(file) => Ok(vec![file]),
            None => bail!("it has no file {name}; {}", gguf_files(files)),
        };
    }
    let is_shard = |file: &&Sibling| {
        let name = &file.rfilename;
        name.starts_with("model-") && name.ends_with(".safetensors") && !name.contains('/')
    };
    let mut weights = match (find(SINGLE), find(INDEX)) {
        (Some(single), _) => vec![single],
        (None, Some(index)) => [index].into_iter().chain(files.iter().filter(is_shard)).collect(),
        (None, None) => bail!("it has no safetensors; {}", gguf_files(files)),
    };
    let Some(config) = find(CONFIG) else { bail!("it has no {CONFIG}; {}", gguf_files(files)) };
    let mut all = vec![config];
    all.extend(COMPANIONS.iter().filter_map(|name| find(name)));
    // The long ones last: what is wrong with the others shows early.
    all.append(&mut weights);
    Ok(all)
}

/// What there is instead.
fn gguf_files(files: &[Sibling]) -> String {
    const LISTED: usize = 12;
    let mut names: Vec<&str> = files.iter().map(|file| file.rfilename.as_str()).collect();
    names.retain(|name| name.ends_with(".gguf"));
    match names.len() {
        0 => "it has no GGUF files either: look for the model's original repository".to_owned(),
        1..=LISTED => format!("choose one with --file: {}", names.join(", ")),
        count => format!(
            "choose one with --file: {}, and {} more",
            names[..LISTED].join(", "),
            count - LISTED
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: &[&str]) -> Vec<Sibling> {
        names.iter().map(|name| Sibling { rfilename: (*name).to_owned(), size: Some(1) }).collect()
    }

    fn names(files: &[&str], gguf: Option<&str>) -> Result<Vec<String>, String> {
        let files = listed(files);
        let selected = select(&files, gguf).map_err(|error| error.to_string())?;
        Ok(selected.iter().map(|file| file.rfilename.clone()).collect())
    }

    #[test]
    fn what_an_import_reads_is_selected() {
        let all = [
            "README.md",
            "config.json",
            "model.safetensors",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "tokenizer.json",
        ];
        assert_eq!(
            names(&all, None).unwrap(),
            ["config.json", "tokenizer.json", "model.safetensors"]
        );
        let shards = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            INDEX,
        ];
        assert_eq!(names(&shards, None).unwrap(), ["config.json", INDEX, shards[1], shards[2]]);
        assert_eq!(
            names(&["a.gguf", "b/c.gguf", "config.json"], Some("b/c.gguf")).unwrap(),
            ["b/c.gguf"]
        );
    }

    #[test]
    fn what_is_there_instead_is_said() {
        let said = names(&["a.gguf", "b.gguf"], None).unwrap_err();
        assert!(
            said.contains("no safetensors") && said.contains("--file: a.gguf, b.gguf"),
            "{said}"
        );
        assert!(names(&["a.gguf"], Some("b.gguf")).unwrap_err().contains("no file b.gguf"));
        assert!(
            names(&["pytorch_model.bin", "config.json"], None)
                .unwrap_err()
                .contains("original repository")
        );
        assert!(names(&["model.safetensors"], None).unwrap_err().contains("no config.json"));
    }

    #[test]
    fn paths_are_quoted_for_the_shell() {
        assert_eq!(quoted("a/b-c.gguf"), "a/b-c.gguf");
        assert_eq!(quoted("my models/it's"), r"'my models/it'\''s'");
    }
}
