//! The command line: one file per command.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::globals::{GlobalArgs, load};
use crate::config::Config;

pub mod adopt;
pub mod compact;
pub mod config;
pub mod demo;
mod format;
pub mod globals;
mod interrupt;
mod merge_worker;
pub mod plan;
mod progress;
pub mod scope;
pub mod verify;

/// Exit code for wrong usage or configuration.
pub const EXIT_USAGE: u8 = 2;

/// Arc's compaction service: merges small Parquet files into few large, sorted ones, with proof before every deletion.
#[derive(Debug, Parser)]
#[command(name = "arc", version, about, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    globals: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compact everything that is ready, now, in the foreground
    Compact(compact::CompactArgs),
    /// Show what `compact` would do, and what it would not do and why
    Plan(plan::PlanArgs),
    /// Write sample telemetry, compact it, and show before and after
    Demo(demo::DemoArgs),
    /// Check storage against its records; changes nothing
    Verify(verify::VerifyArgs),
    /// Make compacted files count again, after a partial restore
    Adopt(adopt::AdoptArgs),
    /// Show or check the configuration
    Config(config::ConfigArgs),
    /// Internal: merges files for a parent process
    #[command(hide = true)]
    MergeWorker,
}

/// Parses the arguments and runs the command.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { globals, command } = Cli::parse();
    let result = match command {
        Command::MergeWorker => Ok(merge_worker::run()),
        Command::Config(args) => config::run(&args, &globals),
        Command::Demo(args) => run_async(demo::run(&args, &globals)),
        Command::Compact(args) => with_config(&globals, |config| run_async(compact::run(&args, &globals, &config))),
        Command::Verify(args) => with_config(&globals, |config| run_async(verify::run(&args, &globals, &config))),
        Command::Adopt(args) => with_config(&globals, |config| run_async(adopt::run(&args, &globals, &config))),
        Command::Plan(args) => with_config(&globals, |config| run_async(plan::run(&args, &globals, &config))),
    };
    result.unwrap_or_else(|error| {
        // With standard error gone there is nobody left to tell.
        let _ = writeln!(io::stderr(), "arc: {error:#}");
        ExitCode::FAILURE
    })
}

fn with_config(globals: &GlobalArgs, run: impl FnOnce(Config) -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    match load(globals) {
        Ok(config) => run(config),
        Err(error) => {
            writeln!(io::stderr(), "{error}")?;
            Ok(ExitCode::from(EXIT_USAGE))
        }
    }
}

fn run_async(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(command)
}
