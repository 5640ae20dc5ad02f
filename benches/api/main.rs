//! The server under load: many clients on the read endpoints while it compacts, against the same compaction without clients.
//!
//! ```text
//! cargo bench --bench api                                  200 clients, 400 requests a second, 8 partitions of 900 files
//! cargo bench --bench api -- --runs 3 --json figures.json
//! cargo bench --bench api -- --binary ./arc-of-before      another program in the same run, in turn
//! ```
//!
//! ```text
//! run 1: alone ── load      run 2: alone ── load   …        for each program, on fresh links of the same files
//! ```
//!
//! The load lasts exactly as long as the cycle, so that every request meets running jobs and the jobs meet the load from the
//! first to the last moment. A request counts from the moment when it was due, if its client was still busy with the one before:
//! a server that stalls does not make it look better that its clients have to wait. Everything runs on one machine: the clients
//! take their part of the processors, too.

mod load;
mod served;

#[path = "../headline/scenario.rs"]
#[allow(dead_code, reason = "one shape of many")]
mod scenario;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use serde::Serialize;

use self::load::{Load, Timed};
use self::scenario::{HOUR_PATH, Partition, Shape};
use self::served::{Ended, Served, TOKEN};

/// What is asked for, in turn. The partition is the first one.
const ENDPOINTS: [&str; 14] = [
    "/health",
    "/ready",
    "/metrics",
    "/openapi.json",
    "/",
    "/api/compaction/status",
    "/api/compaction/stats",
    "/api/compaction/candidates",
    "/api/compaction/jobs",
    "/api/compaction/history?limit=10",
    "/api/compaction/locks",
    "/api/compaction/quarantine",
    "/api/connections/storage",
    "/api/partitions/bench/cpu0/2025/10/08/14/files",
];

#[derive(Debug, Parser)]
struct Arguments {
    /// Clients, each with one connection
    #[arg(long, default_value_t = 200)]
    clients: u32,

    /// Requests a second, of all clients together
    #[arg(long, default_value_t = 400)]
    rate: u32,

    /// Partitions to compact, two at a time
    #[arg(long, default_value_t = 8)]
    partitions: u64,

    /// Files of each
    #[arg(long, default_value_t = 900)]
    files: u64,

    /// Rows of each; so many that the cycle takes half a minute or more
    #[arg(long, default_value_t = 20_000_000)]
    rows: u64,

    /// How often everything is done
    #[arg(long, default_value_t = 1)]
    runs: usize,

    /// Ask only for this path
    #[arg(long, value_name = "PATH")]
    endpoint: Option<String>,

    /// Another `arc` program to measure beside this one; may be repeated
    #[arg(long, value_name = "PROGRAM")]
    binary: Vec<PathBuf>,

    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Folder for the data
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/api"))]
    dir: PathBuf,

    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// The figures of one program.
#[derive(Debug, Default, Serialize)]
struct Figures {
    program: String,
    requests: usize,
    errors: usize,
    /// The first few.
    error_messages: Vec<String>,
    latency: Latency,
    by_endpoint: BTreeMap<String, Latency>,
    /// Duration of the cycle in each run.
    cycle_seconds_alone: Vec<f64>,
    cycle_seconds_under_load: Vec<f64>,
    /// Over the sums of all runs.
    slowdown: f64,
    /// Highest of all runs, of the server without its children.
    peak_rss_bytes_alone: u64,
    peak_rss_bytes_under_load: u64,
    /// What the server's processor time grew by, for each request.
    cpu_microseconds_a_request: f64,
}

/// In milliseconds.
#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Latency {
    requests: usize,
    p50: f64,
    p99: f64,
    max: f64,
}

impl Latency {
    fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut times: Vec<f64> = times.map(|time| time.as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
        let value = |percent| at(percent).copied().unwrap_or_default();
        Self { requests: times.len(), p50: value(50), p99: value(99), max: value(100) }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let dir = arguments.dir.join(std::process::id().to_string());
    let source = Partition::new("source", Shape::Cpu, arguments.files, arguments.rows);
    source.write(&dir)?;
    let programs: Vec<PathBuf> = [Path::new(env!("CARGO_BIN_EXE_arc")).to_owned()]
        .into_iter()
        .chain(arguments.binary.iter().map(|program| fs::canonicalize(program).unwrap_or_else(|_| program.clone())))
        .collect();
    let mut all: Vec<(Vec<Ended>, Vec<Ended>, Vec<Timed>)> = programs.iter().map(|_| Default::default()).collect();
    for _ in 0..arguments.runs {
        for (program, (alone, loaded, timed)) in programs.iter().zip(&mut all) {
            alone.push(cycle(program, &arguments, &source, &dir, None)?.0);
            let (ended, asked) = cycle(program, &arguments, &source, &dir, Some(&load_of(&arguments)))?;
            loaded.push(ended);
            timed.extend(asked);
        }
    }
    fs::remove_dir_all(&dir)?;
    let figures: Vec<Figures> = programs
        .iter()
        .zip(all)
        .map(|(program, (alone, loaded, timed))| figures(program, &alone, &loaded, &timed))
        .collect();
    for figures in &figures {
        print(figures, &mut io::stdout())?;
    }
    if let Some(path) = &arguments.json {
        fs::write(path, serde_json::to_vec_pretty(&figures)?)?;
    }
    Ok(())
}

fn load_of(arguments: &Arguments) -> Load {
    let all = || ENDPOINTS.map(str::to_owned).into();
    Load {
        clients: arguments.clients,
        requests_a_second: arguments.rate,
        paths: arguments.endpoint.clone().map_or_else(all, |only| vec![only]),
    }
}

/// One cycle of a fresh server over fresh links, with clients or without.
fn cycle(
    program: &Path,
    arguments: &Arguments,
    source: &Partition,
    dir: &Path,
    load: Option<&Load>,
) -> anyhow::Result<(Ended, Vec<Timed>)> {
    let work = dir.join("work");
    let from = source.folder(dir);
    for number in 0..arguments.partitions {
        let to = work.join(format!("data/bench/cpu{number}")).join(HOUR_PATH);
        fs::create_dir_all(&to)?;
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            fs::hard_link(entry.path(), to.join(entry.file_name()))?;
        }
    }
    // Nobody pays for what another has left to be written.
    rustix::fs::sync();
    let mut served = Served::start(program, &work)?;
    let timed = match load {
        None => {
            served.trigger()?;
            served.wait_for_the_cycle()?;
            Vec::new()
        }
        Some(load) => {
            let running = load.start(&served.address, TOKEN)?;
            served.trigger()?;
            served.wait_for_the_cycle()?;
            running.stop()?
        }
    };
    let ended = served.end().context("end the server")?;
    fs::remove_dir_all(&work)?;
    Ok((ended, timed))
}

#[allow(clippy::cast_precision_loss, reason = "a ratio")]
fn figures(program: &Path, alone: &[Ended], loaded: &[Ended], timed: &[Timed]) -> Figures {
    let mut by_path: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for request in timed.iter().filter(|request| request.error.is_none()) {
        by_path.entry(&request.path).or_default().push(request.took);
    }
    let seconds = |runs: &[Ended]| -> Vec<f64> { runs.iter().map(|run| run.cycle_seconds).collect() };
    let sum = |runs: &[Ended], what: fn(&Ended) -> f64| -> f64 { runs.iter().map(what).sum() };
    let peak = |runs: &[Ended]| runs.iter().map(|run| run.peak_rss_bytes).max().unwrap_or_default();
    let cpu_of_requests = sum(loaded, |run| run.cpu_seconds) - sum(alone, |run| run.cpu_seconds);
    let errors: Vec<&String> = timed.iter().filter_map(|request| request.error.as_ref()).collect();
    Figures {
        program: program.display().to_string(),
        requests: timed.len(),
        errors: errors.len(),
        error_messages: errors.into_iter().take(5).cloned().collect(),
        latency: Latency::of(by_path.values().flatten().copied()),
        by_endpoint: by_path
            .iter()
            .map(|(path, times)| ((*path).to_owned(), Latency::of(times.iter().copied())))
            .collect(),
        cycle_seconds_alone: seconds(alone),
        cycle_seconds_under_load: seconds(loaded),
        slowdown: sum(loaded, |run| run.cycle_seconds) / sum(alone, |run| run.cycle_seconds),
        peak_rss_bytes_alone: peak(alone),
        peak_rss_bytes_under_load: peak(loaded),
        cpu_microseconds_a_request: cpu_of_requests / timed.len().max(1) as f64 * 1e6,
    }
}

#[allow(clippy::cast_precision_loss, reason = "shown to three digits")]
fn print(figures: &Figures, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\n{}: {} requests, {} errors", figures.program, figures.requests, figures.errors)?;
    for message in &figures.error_messages {
        writeln!(out, "  {message}")?;
    }
    writeln!(out, "\n| endpoint | requests | p50 | p99 | max |\n|---|---|---|---|---|")?;
    for (path, times) in figures.by_endpoint.iter().map(|(path, times)| (path.as_str(), times)) {
        line(path, times, out)?;
    }
    line("all", &figures.latency, out)?;
    let shown = |seconds: &[f64]| seconds.iter().map(|s| format!("{s:.1} s")).collect::<Vec<_>>().join(", ");
    let mb = |bytes: u64| bytes as f64 / 1e6;
    writeln!(out, "\n| | alone | under load | |\n|---|---|---|---|")?;
    let (alone, loaded) = (shown(&figures.cycle_seconds_alone), shown(&figures.cycle_seconds_under_load));
    writeln!(out, "| cycle | {alone} | {loaded} | {:.2}x |", figures.slowdown)?;
    let (alone, loaded) = (mb(figures.peak_rss_bytes_alone), mb(figures.peak_rss_bytes_under_load));
    writeln!(out, "| peak RSS of the server | {alone:.0} MB | {loaded:.0} MB | {:.2}x |", loaded / alone)?;
    writeln!(out, "| its CPU for each request | | {:.0} µs | |", figures.cpu_microseconds_a_request)?;
    out.flush()
}

fn line(name: &str, times: &Latency, out: &mut impl Write) -> io::Result<()> {
    let Latency { requests, p50, p99, max } = times;
    writeln!(out, "| {name} | {requests} | {p50:.1} ms | {p99:.1} ms | {max:.1} ms |")
}
