//! `taktbus`: see the crate documentation for the map of the code.

use std::process::ExitCode;

fn main() -> ExitCode {
    taktbus::cli::main()
}
