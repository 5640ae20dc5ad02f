//! `arc plan`: what a cycle would do, and for what it would not do, why, with the numbers.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use futures::StreamExt;
use serde_json::json;

use super::format;
use super::globals::GlobalArgs;
use super::scope::ScopeArgs;
use crate::clock::{Clock, SystemClock};
use crate::compaction::events::EventSink;
use crate::compaction::ledger::Waits;
use crate::compaction::report::{Problem, Skipped};
use crate::compaction::{Candidate, Finding};
use crate::config::Config;
use crate::partition::PartitionId;
use crate::server::build_manager;
use crate::telemetry::{self, LogStream};

/// `arc plan …`
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    scope: ScopeArgs,

    /// Also show what is skipped and why; with a partition, only that one and its files
    #[arg(long, value_name = "PARTITION", num_args = 0..=1)]
    #[allow(clippy::option_option, reason = "clap's form of a flag with an optional value")]
    explain: Option<Option<PartitionId>>,
}

/// Which explanations are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Explain {
    /// Skipped partitions with their reasons.
    Skipped,
    /// That, and every candidate's files.
    Files,
}

/// Runs the command. The exit code is 1 when a place could not be looked at.
pub async fn run(args: &PlanArgs, globals: &GlobalArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let mut scope = args.scope.clone();
    let explain = match &args.explain {
        None => None,
        Some(None) => Some(Explain::Skipped),
        Some(Some(partition)) => {
            scope.partition = Some(partition.clone());
            Some(Explain::Files)
        }
    };
    show(&scope, Waits::Kept, explain, globals, config).await
}

/// Looks at everything in scope and prints what would be done.
pub async fn show(
    scope: &ScopeArgs,
    waits: Waits,
    explain: Option<Explain>,
    globals: &GlobalArgs,
    config: &Config,
) -> anyhow::Result<ExitCode> {
    telemetry::init(&config.logging, LogStream::Stderr)?;
    let manager = build_manager(config, EventSink::ignore())?;
    let mut seen = Seen::default();
    let mut findings = manager.examine_with(scope.to_scope(), waits);
    while let Some(finding) = findings.next().await {
        match finding {
            Finding::Candidate(candidate) => seen.candidates.push(candidate),
            Finding::Skipped(skipped) => {
                seen.skipped_count += 1;
                // There may be a hundred thousand of them, so they are kept only to be shown.
                if explain.is_some() || globals.json {
                    seen.skipped.push(skipped);
                }
            }
            Finding::Problem(problem) => seen.problems.push(problem),
            Finding::Unrecognised(path) => seen.unrecognised.push(path),
        }
    }
    seen.candidates.sort_by(|a, b| a.partition.cmp(&b.partition));
    seen.skipped.sort_by(|a, b| a.partition_path.cmp(&b.partition_path));
    let next_run = if config.compaction.enabled { config.next_run(SystemClock.now()) } else { None };
    let mut out = io::stdout().lock();
    if globals.json {
        let candidates: Vec<_> = seen.candidates.iter().map(Candidate::to_report).collect();
        let plan = json!({
            "candidates": candidates, "skipped": seen.skipped, "problems": seen.problems,
            "unrecognised": seen.unrecognised, "next_run": next_run.map(|(time, _)| time),
        });
        writeln!(out, "{plan:#}")?;
    } else {
        seen.print(explain, &mut out)?;
        match next_run {
            Some((time, schedule)) => writeln!(out, "schedule {schedule}: next run {}", time.format("%FT%TZ"))?,
            None => writeln!(out, "no next run: compaction is disabled, or the schedule never comes round")?,
        }
    }
    Ok(if seen.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug, Default)]
struct Seen {
    candidates: Vec<Candidate>,
    skipped: Vec<Skipped>,
    skipped_count: u64,
    problems: Vec<Problem>,
    unrecognised: Vec<String>,
}

impl Seen {
    fn print(&self, explain: Option<Explain>, out: &mut impl Write) -> io::Result<()> {
        for candidate in &self.candidates {
            let report = candidate.to_report();
            if report.unfinished {
                writeln!(out, "{}: clear away what an earlier attempt left, then look again", candidate.partition)?;
                continue;
            }
            let files = format::count(report.file_count as u64, "file");
            writeln!(out, "{}: merge {files}, {}", candidate.partition, format::bytes(report.bytes))?;
            if explain == Some(Explain::Files) {
                for file in &report.files {
                    writeln!(out, "  {file}")?;
                }
            }
        }
        if explain.is_some() {
            for skipped in &self.skipped {
                writeln!(out, "{}: skip, {}", skipped.partition_path, skipped.reason)?;
            }
            for path in &self.unrecognised {
                writeln!(out, "{path}: not an hour of a measurement, left alone")?;
            }
        }
        for problem in &self.problems {
            writeln!(out, "{}: {}", problem.place, problem.error)?;
        }
        writeln!(
            out,
            "{} to work on, {} skipped{}",
            format::count(self.candidates.len() as u64, "partition"),
            self.skipped_count,
            if explain.is_none() && self.skipped_count > 0 { " (--explain says why)" } else { "" }
        )
    }
}
