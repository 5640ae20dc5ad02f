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
mod jobs;
mod locks;
mod merge_worker;
pub mod plan;
mod progress;
mod quarantine;
pub mod scope;
mod serve;
mod table;
mod token;
pub mod verify;

/// Exit code for wrong usage or configuration.
pub const EXIT_USAGE: u8 = 2;

/// Arc's compaction service: merges small Parquet files into few large, sorted ones, with proof before every deletion.
#[derive(Debug, Parser)]
#[command(name = "arc", version, about)]
struct Cli {
    #[command(flatten)]
    globals: GlobalArgs,
    /// Without one the server is started
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server: the schedule and the HTTP interface, until SIGINT or SIGTERM
    Serve,
    /// Compact everything that is ready, now, in the foreground
    Compact(compact::CompactArgs),
    /// Show what `compact` would do, and what it would not do and why
    Plan(plan::PlanArgs),
    /// Write sample telemetry, compact it, and show before and after
    Demo(demo::DemoArgs),
    /// Show the jobs of the past and those that are running
    Jobs(jobs::JobsArgs),
    /// Show which partitions are being worked on, and by whom
    Locks,
    /// Show or clear the files that compaction leaves out because they are damaged
    Quarantine(quarantine::QuarantineArgs),
    /// Make, list or revoke the tokens of the HTTP interface
    Token(token::TokenArgs),
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
    let result = match command.unwrap_or(Command::Serve) {
        Command::Serve => with_config(&globals, |config| serve::run(&globals, &config)),
        Command::Token(args) => with_config(&globals, |config| run_async(token::run(&args, &globals, &config))),
        Command::MergeWorker => Ok(merge_worker::run()),
        Command::Config(args) => config::run(&args, &globals),
        Command::Demo(args) => run_async(demo::run(&args, &globals)),
        Command::Compact(args) => with_config(&globals, |config| run_async(compact::run(&args, &globals, &config))),
        Command::Jobs(args) => with_config(&globals, |config| run_async(jobs::run(&args, &globals, &config))),
        Command::Locks => with_config(&globals, |config| run_async(locks::run(&globals, &config))),
        Command::Quarantine(args) => {
            with_config(&globals, |config| run_async(quarantine::run(&args, &globals, &config)))
        }
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
