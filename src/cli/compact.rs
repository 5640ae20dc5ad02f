//! `arc compact`: one cycle in the foreground.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::globals::GlobalArgs;
use super::progress::Progress;
use super::scope::ScopeArgs;
use super::{EXIT_USAGE, format, interrupt};
use crate::compaction::events::EventSink;
use crate::compaction::{CycleReport, JobStatus, Reach, Scope};
use crate::config::Config;
use crate::server::build_manager;
use crate::telemetry::{self, LogStream};

/// Compact everything that is ready, now, in the foreground
///
/// A partition whose jobs failed is left alone for a while, and one that would fail again until something has changed;
/// naming it with --partition overrides that. Damaged files are in quarantine (`arc quarantine list`) and stay out of it
/// either way; `arc quarantine clear` lets them be tried again. The exit code is 1 when a job failed, a damaged file was
/// found or a place could not be looked at, and 0 for partitions that only wait because of an earlier failure; both are
/// listed.
#[derive(Debug, Args)]
pub struct CompactArgs {
    #[command(flatten)]
    scope: ScopeArgs,

    /// Look only at recent hours (`recent_window_hours`), except when it is time to look at everything
    #[arg(long, conflicts_with_all = ["partition", "dry_run"])]
    recent: bool,

    /// Only show what would be done, like `arc plan`
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command. The exit code is 1 when a job failed, an input is damaged, or a place could not be looked at.
pub async fn run(args: &CompactArgs, globals: &GlobalArgs, config: &Config) -> anyhow::Result<ExitCode> {
    if args.dry_run {
        return super::plan::show(&args.scope, args.scope.to_scope().waits(), None, globals, config).await;
    }
    let mut err = io::stderr();
    if !config.compaction.enabled {
        let from = config.source("compaction.enabled").map(ToString::to_string).unwrap_or_default();
        writeln!(err, "compaction is disabled: compaction.enabled is false ({from})")?;
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    // Bars and log lines would overwrite each other: a terminal gets bars, everything else gets the log.
    let bars = wants_bars(globals);
    telemetry::init(&config.logging, if bars { LogStream::Neither } else { LogStream::Stderr })?;
    log_foreign_sections(config);
    let reach = if args.recent { Reach::RecentUnlessDue } else { Reach::Everything };
    let report = run_cycle(config, Scope { reach, ..args.scope.to_scope() }, bars).await?;
    if globals.json {
        serde_json::to_writer_pretty(io::stdout(), &report)?;
        writeln!(io::stdout())?;
    } else {
        print(&report, &mut io::stdout().lock())?;
    }
    Ok(if report.needs_attention() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Whether a person watches who wants to see progress.
#[must_use]
pub fn wants_bars(globals: &GlobalArgs) -> bool {
    io::stderr().is_terminal() && !globals.json
}

/// One cycle in the foreground, which Ctrl-C stops at a safe point.
pub async fn run_cycle(config: &Config, scope: Scope, bars: bool) -> anyhow::Result<CycleReport> {
    let progress = bars.then(Progress::start);
    let events = progress.as_ref().map_or_else(EventSink::ignore, Progress::sink);
    let manager = build_manager(config, events)?;
    let cancel = CancellationToken::new();
    let interrupts = interrupt::watch(cancel.clone())?;
    let report = manager.run_compaction_cycle(scope, cancel).await;
    drop(interrupts);
    if let Some(progress) = progress {
        progress.finish();
    }
    report.context("no cycle was run")
}

/// Says once which sections of a shared configuration file are somebody else's.
pub fn log_foreign_sections(config: &Config) {
    if !config.foreign_sections.is_empty() {
        let sections = config.foreign_sections.join(", ");
        info!(target: "storage.compaction", sections, "Sections of the configuration file that are not read here: {sections}");
    }
}

/// The result for people: a line for each job and each thing to look at, then the sum.
pub fn print(report: &CycleReport, out: &mut impl Write) -> io::Result<()> {
    for job in &report.jobs {
        let partition = job.partition();
        match job.status {
            JobStatus::Completed => writeln!(
                out,
                "{partition}: {} files, {} -> {}, {}, {} rows, {:.2} s",
                job.files_compacted,
                format::bytes(job.bytes_before),
                format::count(job.files_written, "file"),
                format::bytes(job.bytes_after),
                format::thousands(job.rows),
                job.duration_seconds
            )?,
            JobStatus::Failed => {
                writeln!(out, "{partition}: FAILED in {}: {}", job.step, job.error.as_deref().unwrap_or("?"))?;
            }
            JobStatus::Cancelled => {
                writeln!(out, "{partition}: stopped, nothing was changed: {}", job.error.as_deref().unwrap_or("?"))?;
            }
        }
        for (name, reason) in job.left_out() {
            writeln!(out, "  left out {name}: {reason}")?;
        }
    }
    for skipped in &report.skipped {
        writeln!(out, "{}: skipped: {}", skipped.partition_path, skipped.reason)?;
        if let crate::compaction::plan::SkipReason::NothingToMerge { set_aside } = &skipped.reason {
            for left_out in set_aside {
                writeln!(out, "  left out {}: {}", left_out.name, left_out.reason)?;
            }
        }
    }
    for problem in &report.problems {
        writeln!(out, "{}: {}", problem.place, problem.error)?;
    }
    writeln!(
        out,
        "{} scanned, {} completed, {} failed, {} skipped in {:.2} s",
        format::count(report.partitions_scanned, "partition"),
        format::count(report.jobs_completed, "job"),
        report.jobs_failed,
        report.jobs_skipped,
        report.duration_seconds
    )?;
    if report.jobs_completed > 0 {
        writeln!(
            out,
            "{} ({}) -> {} ({})",
            format::count(report.files_compacted, "file"),
            format::bytes(report.bytes_before),
            format::count(report.files_written, "file"),
            format::bytes(report.bytes_after)
        )?;
    }
    if report.candidates_left > 0 {
        writeln!(out, "{} left for the next run", format::count(report.candidates_left, "candidate"))?;
    }
    Ok(())
}
