//! `arc adopt`: an operator makes compacted files count again, after a partial restore.

use std::collections::BTreeSet;
use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;
use futures::StreamExt;
use serde_json::json;

use super::globals::GlobalArgs;
use super::{EXIT_USAGE, format, verify};
use crate::compaction::adopt::AdoptError;
use crate::compaction::adopt::check::{Adoption, Step};
use crate::compaction::events::EventSink;
use crate::compaction::verify::{Depth, Finding, Severity};
use crate::compaction::{CompactionManager, Scope};
use crate::config::Config;
use crate::partition::PartitionId;
use crate::server::build_manager;
use crate::telemetry::{self, LogStream};

/// `arc adopt PARTITION FILE…`
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// database/measurement/YYYY/MM/DD/HH
    partition: PartitionId,

    /// Names of compacted files in the partition, all parts of each attempt
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,

    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Runs the command. The exit code is 1 when nothing was adopted, or when something still needs a person.
pub async fn run(args: &AdoptArgs, globals: &GlobalArgs, config: &Config) -> anyhow::Result<ExitCode> {
    if !args.yes && !io::stdin().is_terminal() {
        writeln!(io::stderr(), "arc: there is no terminal to ask on; say --yes if these files shall count")?;
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    telemetry::init(&config.logging, LogStream::Stderr)?;
    let manager = build_manager(config, EventSink::ignore())?;
    let named: BTreeSet<String> = args.files.iter().cloned().collect();
    match carry_out(args, &manager, &named, globals).await {
        Ok(code) => Ok(code),
        Err(error) => {
            writeln!(io::stderr(), "arc: {}: {error}", args.partition)?;
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn carry_out(
    args: &AdoptArgs,
    manager: &CompactionManager,
    named: &BTreeSet<String>,
    globals: &GlobalArgs,
) -> Result<ExitCode, Failure> {
    match manager.plan_adoption(&args.partition, named).await? {
        Step::Create(adoption) if !args.yes => {
            if !ask(&args.partition, &adoption)? {
                writeln!(io::stderr(), "nothing was changed")?;
                return Ok(ExitCode::FAILURE);
            }
        }
        Step::Create(adoption) => describe(&args.partition, &adoption, &mut io::stderr())?,
        Step::Done => {}
    }
    let adopted = manager.adopt(&args.partition, named).await?;
    let left = check(manager, &args.partition).await;
    let mut out = io::stdout().lock();
    if globals.json {
        writeln!(out, "{:#}", json!({ "adopted": adopted, "findings": left }))?;
    } else {
        if adopted.records_created == 0 {
            writeln!(out, "{}: these files count already, nothing was changed", args.partition)?;
        } else {
            writeln!(
                out,
                "{}: {} with {} rows count now (record {})",
                args.partition,
                format::count(adopted.files.len() as u64, "file"),
                format::thousands(adopted.rows),
                adopted.generation
            )?;
        }
        if left.is_empty() {
            writeln!(out, "arc verify finds nothing more in this partition")?;
        } else {
            writeln!(out, "arc verify finds:")?;
            verify::print(&left, &mut out)?;
        }
    }
    let fine = left.iter().all(|f| f.severity == Severity::Info);
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    #[error("the terminal: {0}")]
    Terminal(#[from] io::Error),
}

async fn check(manager: &CompactionManager, partition: &PartitionId) -> Vec<Finding> {
    let scope = Scope { partition: Some(partition.clone()), ..Scope::default() };
    let checks: Vec<_> = manager.verify(scope, Depth::Footers).collect().await;
    checks.into_iter().filter(|c| c.is_partition).flat_map(|c| c.findings).collect()
}

fn describe(partition: &PartitionId, adoption: &Adoption, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{partition}: these files shall count (up to record {}):", adoption.last)?;
    for file in &adoption.files {
        writeln!(out, "  {} ({})", file.name, format::bytes(file.size_bytes))?;
    }
    for gone in &adoption.incomplete {
        writeln!(
            out,
            "  note: of the {} parts that belong to {} only {} are here; the rows of the others stay missing",
            gone.parts, gone.file, gone.found
        )?;
    }
    Ok(())
}

fn ask(partition: &PartitionId, adoption: &Adoption) -> io::Result<bool> {
    let mut err = io::stderr();
    describe(partition, adoption, &mut err)?;
    write!(err, "Every row of them is read first, and nothing is deleted. Adopt them? [y/N] ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
