//! A child process whose output is waited for, and which never outlives its guard.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// A running child. Dropping it kills it by its process id and reaps it.
pub struct Process {
    name: &'static str,
    pid: u32,
    stdin: Option<ChildStdin>,
    /// Lines of stdout and stderr, in the order in which they were read.
    lines: Receiver<String>,
    exit: Receiver<ExitStatus>,
    exited: Option<ExitStatus>,
    /// Every line taken so far: the story that a failure tells.
    pub seen: Vec<String>,
}

impl Process {
    pub fn start(name: &'static str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} did not start: {error}"));
        let (sender, lines) = channel();
        pass_on(child.stdout.take().unwrap(), sender.clone());
        pass_on(child.stderr.take().unwrap(), sender);
        let (pid, stdin) = (child.id(), child.stdin.take());
        Self { name, pid, stdin, lines, exit: reaped(child), exited: None, seen: Vec::new() }
    }

    /// The first line from here on that `wanted` accepts. Panics with the whole output when none comes in time.
    pub fn line_where<T>(&mut self, within: Duration, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + within;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line);
                    if let Some(found) = self.seen.last().and_then(|line| wanted(line)) {
                        return found;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {what} within {within:?}\n{}", self.story()),
                Err(RecvTimeoutError::Disconnected) => panic!("ended before {what}\n{}", self.story()),
            }
        }
    }

    /// Everything up to the end of its output.
    pub fn finish(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        self.stdin = None;
        if self.exited.is_none() {
            let Ok(status) = self.exit.recv_timeout(within) else {
                panic!("still running after {within:?}\n{}", self.story());
            };
            self.exited = Some(status);
        }
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.seen.push(line);
        }
        self.exited.unwrap()
    }

    /// Has it ended, or does it before `within` is over?
    pub fn ends_within(&mut self, within: Duration) -> bool {
        if self.exited.is_none() {
            self.exited = self.exit.recv_timeout(within).ok();
        }
        self.exited.is_some()
    }

    pub fn write_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}")
            .and_then(|()| stdin.flush())
            .unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Sends a signal (`TERM`, `KILL`, `STOP`, `CONT`), by process id.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.pid.to_string()).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{signal} {}", self.name);
    }

    /// What it printed, for a failure.
    pub fn story(&mut self) -> String {
        self.seen.extend(self.lines.try_iter());
        format!("--- {} (pid {}) ---\n{}\n---", self.name, self.pid, self.seen.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exited.is_none() && self.exit.try_recv().is_err() {
            let _ = Command::new("kill").arg("-KILL").arg(self.pid.to_string()).status();
            let _ = self.exit.recv_timeout(Duration::from_secs(5));
        }
        if thread::panicking() {
            let story = self.story();
            eprintln!("{story}");
        }
    }
}

/// Reads lines until the end and hands them on, so that the child never blocks on a full pipe.
fn pass_on(stream: impl Read + Send + 'static, lines: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            if lines.send(line).is_err() {
                return;
            }
        }
    });
}

fn reaped(mut child: Child) -> Receiver<ExitStatus> {
    let (sender, exit) = channel();
    thread::spawn(move || {
        if let Ok(status) = child.wait() {
            let _ = sender.send(status);
        }
    });
    exit
}
