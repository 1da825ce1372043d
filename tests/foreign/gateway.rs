//! The program under test, as its user runs it.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::process::Process;

/// The program promises to end within this time after SIGTERM.
const END: Duration = Duration::from_secs(5);

/// A running `taktbus run`.
pub struct Gateway(pub Process);

impl Gateway {
    pub fn run(site: &Path) -> Self {
        Self(Process::start("taktbus", taktbus().arg("run").arg(site)))
    }

    /// Asks it to end, and checks that it does as promised: within 5 s, with exit code 0. Gives what it printed.
    pub fn end(mut self) -> String {
        self.0.signal("TERM");
        let status = self.0.finish(END);
        assert!(status.success(), "{status}\n{}", self.0.story());
        self.0.story()
    }
}

pub fn taktbus() -> Command {
    Command::new(env!("CARGO_BIN_EXE_taktbus"))
}

/// Runs a command that ends by itself.
pub fn output(arguments: &[&str], site: &Path) -> Output {
    let (command, options) = arguments.split_first().unwrap();
    taktbus().arg(command).arg(site).args(options).output().unwrap()
}
