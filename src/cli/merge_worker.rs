//! `arc merge-worker`: the child's side of a merge. Hidden: only the program itself starts it.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::process::ExitCode;

use tracing::Level;

use crate::merge::worker::{Session, prepare_process};
use crate::merge::{merge_blocking, scan_blocking};
use crate::telemetry::{self, LogFormat, LogStream, LoggingSettings};

/// Serves one request. The answer on standard output says how it went; the exit code only whether there is one.
#[must_use]
pub fn run() -> ExitCode {
    prepare_process();
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The parent reads this as a log line; without it the exit code still tells.
            let _ = writeln!(io::stderr(), "merge worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> anyhow::Result<()> {
    let session = Session::open(io::stdin(), io::stdout())?;
    // Structured lines, which the parent logs at their own level.
    if let Ok(level) = session.log_level().parse::<Level>() {
        let (format, keep_days) = (LogFormat::Structured, NonZeroUsize::MIN);
        telemetry::init(&LoggingSettings { level, format, file: None, keep_days }, LogStream::Stderr)?;
    }
    session.run_as_process(merge_blocking, scan_blocking)?;
    Ok(())
}
