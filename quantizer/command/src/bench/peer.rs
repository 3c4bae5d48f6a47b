//! Another program that does the same work in its turn.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::task::Task;

/// A running program that answers requests; see the help of `bench` for the protocol.
pub(super) struct Peer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    name: String,
}

impl Peer {
    /// Starts `command` and waits until it says its name.
    pub(super) fn start(command: &str) -> Result<Self> {
        let mut child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start sh for --compare '{command}'"))?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("no pipes to --compare '{command}'");
        };
        let mut peer =
            Self { child, requests, answers: BufReader::new(answers), name: String::new() };
        peer.name = peer.line().with_context(|| format!("--compare '{command}' did not start"))?;
        Ok(peer)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Tokens a second.
    pub(super) fn measure(&mut self, task: Task) -> Result<f64> {
        let (request, tokens) = match task {
            Task::Source { rows } => (format!("source {rows}"), rows),
            Task::Prefill { tokens } => (format!("prefill {tokens}"), tokens),
            Task::Decode { depth, tokens } => (format!("decode {depth} {tokens}"), tokens),
        };
        writeln!(self.requests, "{request}")
            .context("the program of --compare no longer reads requests")?;
        let answer = self.line()?;
        match answer.parse::<f64>() {
            Ok(seconds) if seconds > 0.0 => Ok(tokens as f64 / seconds),
            _ => bail!(
                "the program of --compare answered '{answer}' to '{request}', which is not a \
                 number of seconds"
            ),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the program of --compare ended ({})", self.child.wait()?);
        }
        Ok(line.trim().to_owned())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
