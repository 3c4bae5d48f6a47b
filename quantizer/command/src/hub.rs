//! A client of the Hugging Face Hub and of its mirrors: lists a revision, and fetches files into
//! the cache that all programs of the hub share, where what was cut goes on.
//!
//! ```text
//! HF_HOME/hub/models--OWNER--NAME/
//!   blobs/ETAG            a content; ETAG.part while it is fetched, ETAG.lock for who fetches it
//!   snapshots/SHA/FILE    links to contents
//!   refs/REVISION         the SHA of a branch or tag
//! ```
//!
//! What a hub says becomes a part of a path only after it was found to be a name: a commit and a
//! content are hexadecimal digits, and a file lies below its snapshot.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

/// How often a download that was cut is taken up again.
const RETRIES: u32 = 3;
/// Seconds to wait for another program that fetches the same content.
const PATIENCE: u32 = 5;

/// What the hub says about a revision.
#[derive(Deserialize)]
pub(crate) struct Listing {
    pub(crate) sha: String,
    pub(crate) siblings: Vec<Sibling>,
}

/// A file of it.
#[derive(Deserialize)]
pub(crate) struct Sibling {
    pub(crate) rfilename: String,
    pub(crate) size: Option<u64>,
}

/// Why something was not fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HubError {
    #[error(transparent)]
    Request(Box<ureq::Error>),
    #[error("the connection broke: {0}")]
    Cut(io::Error),
    #[error(transparent)]
    Disk(#[from] io::Error),
    #[error("another program holds {}", .0.display())]
    Busy(PathBuf),
    #[error("{} is longer than the file", .0.display())]
    TooLong(PathBuf),
    #[error("its answer has no {0}")]
    Missing(&'static str),
    #[error("its {what} is {found:?}, which is no name of one")]
    Name { what: &'static str, found: String },
}

impl From<ureq::Error> for HubError {
    fn from(error: ureq::Error) -> Self {
        Self::Request(Box::new(error))
    }
}

/// The hub, and the cache of its files.
pub(crate) struct Hub {
    /// Follows redirections.
    client: Agent,
    /// Shows them.
    direct: Agent,
    token: Option<String>,
    endpoint: String,
    cache: PathBuf,
}

impl Hub {
    /// The hub of `HF_ENDPOINT`, the cache and the token of `HF_HOME`; `HF_TOKEN` is before that.
    pub(crate) fn from_env() -> Result<Self, HubError> {
        let home = std::env::var_os("HF_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::home_dir().map(|home| home.join(".cache").join("huggingface")));
        let missing = "neither HF_HOME nor a home directory is known";
        let home = home.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, missing))?;
        let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
        let kept = || fs::read_to_string(home.join("token")).ok();
        let token = token.or_else(kept).map(|token| token.trim().to_owned());
        let config = || {
            let config = Agent::config_builder().user_agent("kinglet");
            config.redirect_auth_headers(RedirectAuthHeaders::SameHost)
        };
        Ok(Self {
            client: config().build().into(),
            direct: config().max_redirects(0).build().into(),
            token: token.filter(|token| !token.is_empty()),
            endpoint: endpoint(),
            cache: home.join("hub"),
        })
    }

    /// Where all repositories are kept.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// Where a repository is kept.
    fn folder(&self, repository: &str) -> PathBuf {
        self.cache.join(format!("models--{}", repository.replace('/', "--")))
    }

    /// What a revision has. Its commit is a name.
    pub(crate) fn list(&self, repository: &str, revision: &str) -> Result<Listing, HubError> {
        let revision = encoded(revision).replace('/', "%2F");
        let at = &self.endpoint;
        let url = format!("{at}/api/models/{repository}/revision/{revision}?blobs=true");
        let listing: Listing = self.get(&self.client, &url, None)?.body_mut().read_json()?;
        match is_hex(&listing.sha) {
            true => Ok(listing),
            false => Err(HubError::Name { what: "commit", found: listing.sha }),
        }
    }

    /// A file of a commit, from the cache or else from the hub; where it is.
    pub(crate) fn fetch(
        &self,
        repository: &str,
        commit: &str,
        name: &str,
    ) -> Result<PathBuf, HubError> {
        let wrong = |what, found: &str| Err(HubError::Name { what, found: found.to_owned() });
        if !is_hex(commit) {
            return wrong("commit", commit);
        }
        if !is_below(name) {
            return wrong("file", name);
        }
        let folder = self.folder(repository);
        let pointer = folder.join("snapshots").join(commit).join(name);
        if pointer.exists() {
            return Ok(pointer);
        }
        let url = format!("{}/{repository}/resolve/{commit}/{}", self.endpoint, encoded(name));
        let content = self.content(&url)?;
        if !is_hex(&content) {
            return wrong("ETag", &content);
        }
        let blob = folder.join("blobs").join(&content);
        for place in [&blob, &pointer] {
            fs::create_dir_all(place.parent().unwrap_or(&folder))?;
        }
        let _lock = lock(blob.with_extension("lock"))?;
        if !blob.exists() {
            let part = blob.with_extension("part");
            self.download(&url, &part)?;
            fs::rename(&part, &blob)?;
        }
        let up = "../".repeat(name.split('/').count() + 1);
        link(&blob, Path::new(&format!("{up}blobs/{content}")), &pointer)?;
        Ok(pointer)
    }

    /// Remembers which commit a branch or tag was.
    pub(crate) fn remember(
        &self,
        repository: &str,
        revision: &str,
        commit: &str,
    ) -> Result<(), HubError> {
        if !is_below(revision) || !is_hex(commit) || revision == commit {
            return Ok(());
        }
        let folder = self.folder(repository);
        let place = folder.join("refs").join(revision);
        fs::create_dir_all(place.parent().unwrap_or(&folder))?;
        Ok(fs::write(place, commit)?)
    }

    fn get(
        &self,
        agent: &Agent,
        url: &str,
        range: Option<String>,
    ) -> Result<Response<Body>, HubError> {
        let mut request = agent.get(url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if let Some(range) = range {
            request = request.header("Range", range);
        }
        Ok(request.call()?)
    }

    /// What a file's content is called. Where it lies elsewhere, the hub says so before the
    /// redirection; redirections within the hub are renamed repositories.
    fn content(&self, url: &str) -> Result<String, HubError> {
        let mut url = url.to_owned();
        for _ in 0..8 {
            let answer = self.get(&self.direct, &url, Some("bytes=0-0".to_owned()))?;
            let location = header(answer.headers(), "location").unwrap_or_default();
            if answer.status().is_redirection() && location.starts_with('/') {
                url = format!("{}{location}", self.endpoint);
                continue;
            }
            let named = |name| header(answer.headers(), name);
            let tag = named("x-linked-etag").or_else(|| named("etag"));
            let tag = tag.ok_or(HubError::Missing("ETag"))?;
            return Ok(tag.trim_start_matches("W/").trim_matches('"').to_owned());
        }
        Err(HubError::Missing("end of redirections"))
    }

    /// Adds to a part what it lacks.
    fn download(&self, url: &str, part: &Path) -> Result<(), HubError> {
        let mut tries = 0;
        loop {
            let done = self.download_once(url, part);
            let again = match &done {
                Err(HubError::Cut(_)) => true,
                Err(HubError::Request(error)) => !matches!(**error, ureq::Error::StatusCode(_)),
                _ => false,
            };
            if !again || tries == RETRIES {
                return done;
            }
            sleep(Duration::from_millis(300 << tries));
            tries += 1;
        }
    }

    fn download_once(&self, url: &str, part: &Path) -> Result<(), HubError> {
        let mut file = OpenOptions::new().create(true).append(true).open(part)?;
        let mut start = file.metadata()?.len();
        let range = format!("bytes={start}-");
        let answer = match self.get(&self.client, url, Some(range)) {
            // Nothing lies after the part: it is all, or more.
            Err(HubError::Request(error))
                if start > 0 && matches!(*error, ureq::Error::StatusCode(416)) =>
            {
                return Err(HubError::TooLong(part.to_owned()));
            }
            answer => answer?,
        };
        if answer.status() != 206 {
            // All of it comes again.
            file.set_len(0)?;
            start = 0;
        }
        let total = total(answer.headers(), start).ok_or(HubError::Missing("Content-Range"))?;
        let left = total.checked_sub(start).ok_or_else(|| HubError::TooLong(part.to_owned()))?;
        let copied = copy(answer.into_body().into_reader().take(left), &mut file)?;
        match copied == left {
            true => Ok(file.sync_all()?),
            false => Err(HubError::Cut(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// Where the hub is.
pub(crate) fn endpoint() -> String {
    let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
    let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".to_owned());
    endpoint.trim_end_matches('/').to_owned()
}

/// The bytes of the whole file, of which the answer begins at `start`.
fn total(headers: &HeaderMap, start: u64) -> Option<u64> {
    if let Some(range) = header(headers, "content-range") {
        return range.rsplit_once('/')?.1.parse().ok();
    }
    header(headers, "content-length")?.parse::<u64>().ok()?.checked_add(start)
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Copies until the end; what breaks is the connection or the disk.
fn copy(mut from: impl Read, to: &mut impl io::Write) -> Result<u64, HubError> {
    let mut buffer = vec![0; 1 << 16];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer).map_err(HubError::Cut)? {
            0 => return Ok(copied),
            n => {
                to.write_all(&buffer[..n])?;
                copied += n as u64;
            }
        }
    }
}

/// Holds a file as long as the result lives.
fn lock(path: PathBuf) -> Result<File, HubError> {
    let file = File::create(&path)?;
    for _ in 0..PATIENCE {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => sleep(Duration::from_secs(1)),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    Err(HubError::Busy(path))
}

/// Makes `pointer` a link to a content, or a copy where the system has no links.
fn link(blob: &Path, relative: &Path, pointer: &Path) -> io::Result<()> {
    match fs::remove_file(pointer) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(relative, pointer);
    #[cfg(windows)]
    let linked = std::os::windows::fs::symlink_file(relative, pointer);
    #[cfg(not(any(unix, windows)))]
    let linked: io::Result<()> = Err(io::ErrorKind::Unsupported.into());
    let _ = relative;
    linked.or_else(|_| fs::copy(blob, pointer).map(drop))
}

/// Whether this can be a commit or the hash of a content.
fn is_hex(name: &str) -> bool {
    (1..=128).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether this names something below a directory, on every system.
fn is_below(name: &str) -> bool {
    let plain = |part: &str| {
        let known = |c: char| !c.is_control() && !"\\:*?\"<>|".contains(c);
        !part.is_empty() && !part.ends_with(['.', ' ']) && part.chars().all(known)
    };
    name.len() <= 1024 && name.split('/').all(plain)
}

/// A path as a part of an address.
fn encoded(path: &str) -> String {
    path.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                text.push(byte.into());
            }
            _ => text += &format!("%{byte:02X}"),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_a_directory_is_no_name() {
        let below = ["config.json", "q/small.gguf", "a b/\u{e9}.json", ".gitattributes", "..a"];
        assert!(below.into_iter().all(is_below));
        let others =
            ["", "/etc/passwd", "..", "../x", "a/../../x", "a/", "a//b", "./x", "a\\..\\x"];
        assert!(others.into_iter().all(|name| !is_below(name)));
        assert!(["C:x", "a\0b", "a\nb", "x."].into_iter().all(|name| !is_below(name)));
        assert!(is_hex("0123456789abcdef") && is_hex("ABC"));
        assert!(["", "../x", "12/34", "12.34", "xyz", "\u{661}"].into_iter().all(|n| !is_hex(n)));
    }

    #[test]
    fn names_are_encoded_for_addresses() {
        assert_eq!(encoded("q/a b#?.gguf"), "q/a%20b%23%3F.gguf");
    }
}
