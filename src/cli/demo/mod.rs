//! `arc demo`: realistic telemetry as many small files, compacted, and queried before and after.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use chrono::TimeDelta;
use clap::Args;
use serde::Serialize;

use self::generate::{Measurement, Telemetry};
use self::queries::{Answers, ask};
use super::format;
use super::globals::{GlobalArgs, load_with};
use super::{EXIT_USAGE, compact};
use crate::clock::{Clock, SystemClock};
use crate::compaction::{CycleReport, Scope};
use crate::config::{Config, Flag};
use crate::merge::resources::ProcessMemory;
use crate::partition::{Hour, PartitionId};
use crate::server::open_storage;
use crate::telemetry::{self, LogStream};

mod generate;
mod queries;

/// The database that the demo writes.
const DATABASE: &str = "demo";

/// `arc demo …`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Folder for data, state and temporary files; it must not hold a demo already
    #[arg(long, value_name = "DIR", default_value = "./arc-demo")]
    dir: PathBuf,

    /// Small files of each measurement
    #[arg(long, value_name = "N", default_value = "720")]
    files: NonZeroUsize,

    /// Rows of each measurement, spread over its files
    #[arg(long, value_name = "N", default_value = "1440000")]
    rows: NonZeroUsize,

    /// Measurements to write
    #[arg(long, value_name = "NAME", value_enum, value_delimiter = ',', default_values = ["cpu", "mem", "disk"])]
    measurements: Vec<Measurement>,

    /// The same seed writes the same values
    #[arg(long, value_name = "S", default_value = "42")]
    seed: u64,

    /// Keep the folder afterwards
    #[arg(long)]
    keep: bool,
}

/// The files that count, at one moment, and what they answer.
#[derive(Debug, Serialize)]
struct Picture {
    files: u64,
    bytes: u64,
    #[serde(flatten)]
    answers: Answers,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct DemoReport<'a> {
    generate_seconds: f64,
    compact_seconds: f64,
    /// This process and its largest merge process, added.
    peak_memory_bytes: u64,
    before: &'a Picture,
    after: &'a Picture,
    cycle: &'a CycleReport,
}

/// Runs the demo. The exit code is 1 when the compaction failed or an answer changed.
pub async fn run(args: &DemoArgs, globals: &GlobalArgs) -> anyhow::Result<ExitCode> {
    if args.rows < args.files {
        writeln!(io::stderr(), "--rows must be at least --files: a file has at least one row")?;
        return Ok(ExitCode::from(EXIT_USAGE));
    }
    let config = match demo_config(&args.dir, globals) {
        Ok(config) => config,
        Err(error) => {
            writeln!(io::stderr(), "{error}")?;
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    std::fs::create_dir(&args.dir).with_context(|| {
        format!("create {}: choose a folder that does not exist yet with --dir", args.dir.display())
    })?;
    // The demo speaks for itself; a log file is written if the configuration names one.
    telemetry::init(&config.logging, LogStream::Neither)?;
    let result = show(args, globals, &config).await;
    if args.keep {
        writeln!(io::stderr(), "kept in {}", args.dir.display())?;
    } else {
        std::fs::remove_dir_all(&args.dir).with_context(|| format!("remove {}", args.dir.display()))?;
    }
    result
}

/// The user's configuration, with every path inside the demo's folder.
fn demo_config(dir: &Path, globals: &GlobalArgs) -> anyhow::Result<Config> {
    let inside = |key, name: &str| Flag { key, value: dir.join(name).display().to_string(), flag: "--dir" };
    let flags = vec![
        // Whatever the configuration says: a demonstration stays in its folder.
        Flag { key: "storage.backend", value: "local".to_owned(), flag: "--dir" },
        inside("storage.local.base_path", "data"),
        inside("state.db_path", "arc.db"),
        inside("compaction.temp_dir", "temp"),
    ];
    Ok(load_with(globals, flags)?)
}

async fn show(args: &DemoArgs, globals: &GlobalArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout();
    let say = |text: String| if globals.json { Ok(()) } else { writeln!(io::stdout(), "{text}") };

    // The newest hour that is old enough by the configured policy.
    let age = TimeDelta::from_std(config.compaction.partition.policy.min_age)?;
    let hour = Hour::containing(SystemClock.now() - age - TimeDelta::hours(1));
    let base = &config.storage.local.base_path;
    std::fs::create_dir_all(base)?;
    let began = Instant::now();
    let mut partitions = Vec::new();
    for measurement in &args.measurements {
        let partition = PartitionId::new(DATABASE, measurement.name(), hour)?;
        let telemetry =
            Telemetry { measurement: *measurement, hour, files: args.files, rows: args.rows, seed: args.seed };
        let folder = base.join(partition.to_string());
        tokio::task::spawn_blocking(move || telemetry.write(&folder)).await??;
        partitions.push(partition);
    }
    let generate_seconds = began.elapsed().as_secs_f64();
    let written = args.files.get() as u64 * partitions.len() as u64;
    say(format!("wrote {} in {generate_seconds:.1} s", format::count(written, "small file")))?;

    let before = picture(config, &partitions).await?;
    say("compacting …".to_owned())?;
    let began = Instant::now();
    let cycle = compact::run_cycle(config, Scope::default(), compact::wants_bars(globals)).await?;
    let compact_seconds = began.elapsed().as_secs_f64();
    let merge_peak = cycle.jobs.iter().map(|job| job.peak_memory_bytes).max().unwrap_or(0);
    let own_peak = ProcessMemory::of_this_process().map_or(0, |memory| memory.peak_bytes);
    let peak_memory_bytes = own_peak + merge_peak;
    let after = picture(config, &partitions).await?;

    if globals.json {
        let report = DemoReport {
            generate_seconds,
            compact_seconds,
            peak_memory_bytes,
            before: &before,
            after: &after,
            cycle: &cycle,
        };
        serde_json::to_writer_pretty(&out, &report)?;
        writeln!(out)?;
    } else {
        print(&before, &after, &mut out)?;
        writeln!(
            out,
            "\ncompacted {} rows in {compact_seconds:.2} s; peak memory of the largest merge {}",
            format::thousands(cycle.rows),
            format::bytes(merge_peak)
        )?;
    }
    if cycle.needs_attention() || cycle.jobs_completed != partitions.len() as u64 {
        compact::print(&cycle, &mut io::stderr())?;
        return Ok(ExitCode::FAILURE);
    }
    if before.answers.fingerprint != after.answers.fingerprint {
        bail!(
            "the rows after compaction are not the rows before: this is a bug, please report it with --seed and --rows"
        );
    }
    say("every row is there exactly once: row count and content fingerprint are the same before and after".to_owned())?;
    Ok(ExitCode::SUCCESS)
}

/// The live files by the reader's rule, and the answers of queries over them.
async fn picture(config: &Config, partitions: &[PartitionId]) -> anyhow::Result<Picture> {
    let storage = open_storage(config)?;
    let (mut files, mut bytes, mut tables) = (0, 0, Vec::new());
    for partition in partitions {
        let snapshot = crate::compaction::snapshot::live_files(&storage, partition).await?;
        files += snapshot.files.len() as u64;
        bytes += snapshot.files.iter().map(|f| f.size_bytes).sum::<u64>();
        let paths = snapshot.files.iter().filter_map(|f| storage.local_path(partition, &f.name)).collect();
        tables.push((partition.clone(), paths));
    }
    let answers = tokio::task::spawn_blocking(move || ask(&tables)).await??;
    Ok(Picture { files, bytes, answers })
}

fn print(before: &Picture, after: &Picture, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\n{:<34} {:>14} {:>14} {:>9}", "", "before", "after", "")?;
    let row = |out: &mut dyn Write, what: &str, b: String, a: String, better: f64| {
        writeln!(out, "{what:<34} {b:>14} {a:>14} {better:>8.1}x")
    };
    #[allow(clippy::cast_precision_loss, reason = "a ratio for people")]
    let ratio = |b: u64, a: u64| b as f64 / a.max(1) as f64;
    row(
        out,
        "files",
        format::thousands(before.files),
        format::thousands(after.files),
        ratio(before.files, after.files),
    )?;
    row(out, "bytes", format::bytes(before.bytes), format::bytes(after.bytes), ratio(before.bytes, after.bytes))?;
    for (b, a) in before.answers.queries.iter().zip(&after.answers.queries) {
        let (before_ms, after_ms) = (format!("{:.1} ms", b.milliseconds), format!("{:.1} ms", a.milliseconds));
        row(out, b.name, before_ms, after_ms, b.milliseconds / a.milliseconds)?;
    }
    Ok(())
}
