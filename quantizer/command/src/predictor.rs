//! Another program that predicts tokens, for `kinglet eval --peer`; the help of `eval` has the
//! protocol.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use kinglet_evaluate::Peer;

/// A running program.
pub(crate) struct Predictor {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    name: String,
}

impl Predictor {
    /// Starts `command` and waits until it says its name.
    pub(crate) fn start(command: &str) -> Result<Self> {
        let mut child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start sh for --peer '{command}'"))?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("no pipes to --peer '{command}'");
        };
        let mut peer =
            Self { child, requests, answers: BufReader::new(answers), name: String::new() };
        let mut name = String::new();
        let read = peer.answers.read_line(&mut name);
        read.with_context(|| format!("--peer '{command}' did not say its name"))?;
        if name.is_empty() {
            bail!("--peer '{command}' ended before it said its name ({})", peer.child.wait()?);
        }
        ensure!(
            !name.trim().is_empty(),
            "--peer '{command}' did not say its name on its first line"
        );
        name.trim().clone_into(&mut peer.name);
        Ok(peer)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn failed(&self, what: &str, error: &io::Error) -> io::Error {
        io::Error::other(format!("--peer: {} {what}: {error}", self.name))
    }
}

impl Peer for Predictor {
    fn logits(&mut self, tokens: &[u32], vocab: usize) -> io::Result<Vec<f32>> {
        let line = tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        writeln!(self.requests, "{line}")
            .map_err(|e| self.failed("no longer reads requests", &e))?;
        let mut bytes = vec![0; tokens.len() * vocab * size_of::<f32>()];
        self.answers.read_exact(&mut bytes).map_err(|e| {
            let what = format!("did not give {vocab} logits for each of {} tokens", tokens.len());
            self.failed(&what, &e)
        })?;
        Ok(bytes.as_chunks().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect())
    }
}

impl Drop for Predictor {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
