//! The `arc` program: parses arguments, runs one command.

use std::process::ExitCode;

fn main() -> ExitCode {
    arc::cli::main()
}
