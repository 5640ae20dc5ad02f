//! `arc jobs`: the jobs of the past, and those that are running now.
//!
//! A running job is known by its lease: it is another process's, so there is no more to tell than partition, worker and
//! time. What it has done so far, the API of that process tells.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::globals::GlobalArgs;
use super::{format, table};
use crate::compaction::history::{History, HistoryFilter};
use crate::compaction::{JobReport, JobStatus};
use crate::config::Config;
use crate::lock::Lease;
use crate::server::{open_locks, open_state};

/// `arc jobs …`
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// At most this many past jobs, the newest
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,

    /// Only past jobs that ended like this, or only running ones
    #[arg(long, value_name = "STATUS")]
    status: Option<WantedStatus>,

    /// Only this database
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WantedStatus {
    Running,
    Completed,
    Failed,
    Cancelled,
}

/// Runs the command.
///
/// # Errors
/// When the state database, or the bucket with the locks, cannot be used, or the output not be written.
pub async fn run(args: &JobsArgs, globals: &GlobalArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let state = open_state(config)?;
    let history = History::new(state, config.compaction.history_limit);
    let mut found = Found::default();
    if matches!(args.status, None | Some(WantedStatus::Running)) {
        let of_database = |lease: &Lease| args.database.as_deref().is_none_or(|d| d == lease.partition.database());
        found.running = open_locks(config)?.active_locks().await?.into_iter().filter(of_database).collect();
    }
    if args.status != Some(WantedStatus::Running) {
        let filter =
            HistoryFilter { status: args.status.and_then(WantedStatus::past), database: args.database.clone() };
        found.total = history.count(filter.clone()).await?;
        found.past = history.recent(filter, args.limit as usize).await?;
    }
    found.show(globals.json, &mut io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}

impl WantedStatus {
    fn past(self) -> Option<JobStatus> {
        match self {
            Self::Running => None,
            Self::Completed => Some(JobStatus::Completed),
            Self::Failed => Some(JobStatus::Failed),
            Self::Cancelled => Some(JobStatus::Cancelled),
        }
    }
}

#[derive(Debug, Default)]
struct Found {
    running: Vec<Lease>,
    past: Vec<JobReport>,
    /// Past jobs that match, also those beyond the limit.
    total: u64,
}

impl Found {
    fn show(&self, json: bool, out: &mut impl Write) -> io::Result<()> {
        if json {
            let running: Vec<_> = self
                .running
                .iter()
                .map(|lease| {
                    json!({
                        "database": lease.partition.database(),
                        "measurement": lease.partition.measurement(),
                        "partition_path": lease.partition.path_in_database(),
                        "status": "running",
                        "started_at": lease.locked_at,
                        "worker_id": lease.worker_id.to_string(),
                    })
                })
                .collect();
            let jobs = json!({ "active_jobs": running.len(), "running": running,
                "total_jobs": self.total, "recent_jobs": self.past });
            return writeln!(out, "{jobs:#}");
        }
        if self.running.is_empty() && self.past.is_empty() {
            return writeln!(out, "no jobs");
        }
        let rows: Vec<[String; 8]> =
            self.running.iter().map(running_row).chain(self.past.iter().map(past_row)).collect();
        table::print(["STARTED", "PARTITION", "STATUS", "FILES", "BEFORE", "AFTER", "SECONDS", "NOTE"], &rows, out)?;
        let hidden = self.total.saturating_sub(self.past.len() as u64);
        if hidden > 0 {
            writeln!(out, "{} not shown (--limit)", format::count(hidden, "older job"))?;
        }
        Ok(())
    }
}

fn running_row(lease: &Lease) -> [String; 8] {
    let unknown = String::new;
    [
        format::time(lease.locked_at),
        lease.partition.to_string(),
        "running".into(),
        unknown(),
        unknown(),
        unknown(),
        unknown(),
        lease.worker_id.to_string(),
    ]
}

fn past_row(job: &JobReport) -> [String; 8] {
    let note = match (&job.error, job.left_out().count() as u64) {
        (Some(error), _) => error.clone(),
        (None, 0) => String::new(),
        (None, files) => format!("{} left out", format::count(files, "file")),
    };
    let done = job.status == JobStatus::Completed;
    let if_done = |text: String| if done { text } else { String::new() };
    [
        format::time(job.started_at),
        job.partition(),
        job.status.as_str().into(),
        if_done(format!("{} -> {}", job.files_compacted, job.files_written)),
        if_done(format::bytes(job.bytes_before)),
        if_done(format::bytes(job.bytes_after)),
        format!("{:.2}", job.duration_seconds),
        note,
    ]
}
