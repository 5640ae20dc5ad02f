//! Compaction against the plain DuckDB statement that a user would write instead: the same files, the same DuckDB, in one
//! run, alternating.
//!
//! ```text
//! cargo bench --bench headline                        a twentieth of the classic scenario, under two minutes
//! cargo bench --bench headline -- --scale 1           the classic scenario: 2,704 files
//! cargo bench --bench headline -- --scenario shapes   other shapes of data; also: cycle, one, tenfold, many
//! ```
//!
//! Every figure is the median over the runs, and every ratio is against the plain statement of the same run. One contender is
//! the plain statement with our peak of memory as its limit. Where there is a measurement `cpu`, queries are asked before and
//! after: by DuckDB on local disk, and through S3 with 20 ms added to every request. What is printed is also written as JSON
//! (`--json FILE`).

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use serde::Serialize;

use self::contender::{Contender, Measured, PLAIN_ARGUMENT, Task, plain_statements};
use self::queries::{Answer, Cost, Files, Through};
use self::scenario::{Partition, Shape};

mod bucket;
mod contender;
mod queries;
mod reader;
mod scenario;
mod watch;

/// Rows of each of the three measurements of the classic scenario at scale 1.
const CLASSIC_ROWS: f64 = 86_000_000.0;

/// Rows of the single partition at scale 1.
const ONE_ROWS: f64 = 45_000_000.0;

#[derive(Debug, Parser)]
struct Arguments {
    /// Fraction of the full size
    #[arg(long, default_value_t = 0.05)]
    scale: f64,

    /// Runs of each contender; an odd number has a middle one
    #[arg(long, default_value_t = 3)]
    runs: usize,

    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["cycle"])]
    scenario: Vec<Scenario>,

    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Folder for the data; it needs about 4 GB at scale 1
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/headline"))]
    dir: PathBuf,

    /// Given by `cargo bench`. Without it, as under `cargo test --benches`, nothing is measured
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// cpu, mem and disk: 2,704 files, two jobs at a time
    Cycle,
    /// One partition: 900 files, 45 million rows
    One,
    /// The same with a tenth of the rows in each file
    Tenfold,
    /// 1,000 partitions of 10 files of 1,000 rows
    Many,
    /// Overlapping writers, shuffled rows, 200 columns, text, nested values
    Shapes,
}

/// One set of partitions and who merges it.
struct Case {
    name: String,
    partitions: Vec<Partition>,
    contenders: Vec<Contender>,
}

/// The figures of one case.
#[derive(Debug, Serialize)]
struct Figures {
    case: String,
    files: u64,
    rows: u64,
    bytes_in: u64,
    contenders: Vec<Row>,
    /// Over the first partition; only where it is `cpu`.
    queries: Vec<Answer>,
}

/// One contender: medians, and ratios to the plain statement.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    median: Measured,
    rows_per_second: f64,
    mb_in_per_second: f64,
    wall_ratio: f64,
    cpu_ratio: f64,
    rss_ratio: f64,
    bytes_ratio: f64,
    /// To the plain statement with our peak of memory as its limit. `None` where that ran out of memory.
    wall_ratio_in_our_memory: Option<f64>,
    wall_seconds_of_each_run: Vec<f64>,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == PLAIN_ARGUMENT) {
        return plain_statements(&arguments[1..]);
    }
    let arguments = Arguments::parse();
    if !arguments.bench {
        return Ok(());
    }
    let dir = arguments.dir.join(std::process::id().to_string());
    let mut all = Vec::new();
    for scenario in &arguments.scenario {
        for case in cases(*scenario, arguments.scale) {
            let figures = measure(&case, arguments.runs, &dir)?;
            print(&figures, &mut io::stdout())?;
            all.push(figures);
        }
    }
    if let Some(path) = &arguments.json {
        fs::write(path, serde_json::to_vec_pretty(&all)?)?;
    }
    fs::remove_dir_all(&dir)?;
    Ok(())
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "sizes of samples"
)]
fn cases(scenario: Scenario, scale: f64) -> Vec<Case> {
    let scaled = |rows: f64| (rows * scale) as u64;
    // Small samples keep the size of the files, not their number, so that a sample is like the whole.
    let files = |full: u64| ((full as f64 * scale) as u64).clamp(20, full);
    let arc = |jobs: usize| [Contender::Arc { verify: "content", jobs }, Contender::Arc { verify: "footers", jobs }];
    let against_plain = |jobs: usize| -> Vec<Contender> {
        [Contender::Naive].into_iter().chain(arc(jobs)).chain([Contender::NaiveInOurMemory]).collect()
    };
    let single = |name: &str, shape, count, rows| Case {
        name: name.to_owned(),
        partitions: vec![Partition::new("m", shape, count, rows)],
        contenders: against_plain(1),
    };
    match scenario {
        Scenario::Cycle => vec![Case {
            name: "cycle: cpu, mem, disk".to_owned(),
            partitions: vec![
                Partition::new("cpu", Shape::Cpu, files(902), scaled(CLASSIC_ROWS)),
                Partition::new("mem", Shape::Mem, files(901), scaled(CLASSIC_ROWS)),
                Partition::new("disk", Shape::Disk, files(901), scaled(CLASSIC_ROWS)),
            ],
            contenders: [Contender::Naive, Contender::NaiveWithin(1024)]
                .into_iter()
                .chain(arc(2))
                .chain([Contender::NaiveInOurMemory])
                .collect(),
        }],
        Scenario::One => vec![single("one partition", Shape::Cpu, files(900), scaled(ONE_ROWS))],
        Scenario::Tenfold => vec![single("a tenth of the rows", Shape::Cpu, files(900), scaled(ONE_ROWS / 10.0))],
        Scenario::Many => vec![Case {
            name: "many small partitions".to_owned(),
            partitions: (0..(1000.0 * scale).max(20.0) as u64)
                .map(|i| Partition::new(&format!("m{i:04}"), Shape::Cpu, 10, 10_000))
                .collect(),
            contenders: against_plain(2),
        }],
        Scenario::Shapes => vec![
            single("8 interleaved writers", Shape::Writers8, files(400), scaled(16e6)),
            single("shuffled over the hour", Shape::Shuffled, files(200), scaled(10e6)),
            single("200 double columns", Shape::Wide, files(60), scaled(0.6e6)),
            single("all text", Shape::Strings, files(100), scaled(4e6)),
            single("lists and structs", Shape::Nested, files(100), scaled(4e6)),
        ],
    }
}

/// Runs every contender `runs` times, in turn.
fn measure(case: &Case, runs: usize, dir: &Path) -> anyhow::Result<Figures> {
    let source = dir.join("source");
    for partition in &case.partitions {
        partition.write(&source)?;
    }
    let bytes_in = watch::size_of_folder(&source);
    let work = dir.join("work");
    let mut task = Task { partitions: &case.partitions, source: &source, work: &work, our_peak_bytes: 0 };
    let mut measured: Vec<Vec<Measured>> = vec![Vec::new(); case.contenders.len()];
    for run in 0..=runs {
        for (contender, results) in case.contenders.iter().zip(&mut measured) {
            // Nobody pays for what another has left to be written.
            rustix::fs::sync();
            let result = contender.run(task)?;
            if matches!(contender, Contender::Arc { verify: "content", .. }) {
                task.our_peak_bytes = task.our_peak_bytes.max(result.usage.peak_rss_bytes);
            }
            // The first round only warms the page cache.
            if run > 0 {
                results.push(result);
            }
        }
    }
    let queries = match &case.partitions[..] {
        [cpu, ..] if cpu.measurement == "cpu" => {
            let arc = Contender::Arc { verify: "content", jobs: 2 };
            let look = |work: &Path| {
                let (before, after) = (cpu.folder(&source), work.join("data"));
                let after_folder = cpu.folder(&after);
                let before = Files { base: &source, folder: &before };
                queries::ask(before, Files { base: &after, folder: &after_folder }, runs)
            };
            arc.run_and_look(task, look)?.1
        }
        _ => Vec::new(),
    };
    fs::remove_dir_all(&source)?;
    let rows: u64 = case.partitions.iter().map(|p| p.rows).sum();
    let base = medians(&measured[0]);
    let in_our_memory = case.contenders.iter().position(|contender| *contender == Contender::NaiveInOurMemory);
    let in_our_memory = in_our_memory.map(|at| medians(&measured[at])).filter(|plain| !plain.out_of_memory);
    let contenders = measured.iter().map(|runs| row(runs, &base, in_our_memory.as_ref(), rows, bytes_in)).collect();
    Ok(Figures {
        case: case.name.clone(),
        files: case.partitions.iter().map(|p| p.files).sum(),
        rows,
        bytes_in,
        contenders,
        queries,
    })
}

#[allow(clippy::cast_precision_loss, reason = "a ratio")]
fn row(runs: &[Measured], base: &Measured, in_our_memory: Option<&Measured>, rows: u64, bytes_in: u64) -> Row {
    let median = medians(runs);
    Row {
        rows_per_second: rows as f64 / median.usage.wall_seconds,
        mb_in_per_second: bytes_in as f64 / 1e6 / median.usage.wall_seconds,
        wall_ratio: median.usage.wall_seconds / base.usage.wall_seconds,
        cpu_ratio: median.usage.cpu_seconds / base.usage.cpu_seconds,
        rss_ratio: median.usage.peak_rss_bytes as f64 / base.usage.peak_rss_bytes as f64,
        bytes_ratio: median.bytes_out as f64 / base.bytes_out as f64,
        wall_ratio_in_our_memory: in_our_memory.map(|plain| median.usage.wall_seconds / plain.usage.wall_seconds),
        wall_seconds_of_each_run: runs.iter().map(|run| run.usage.wall_seconds).collect(),
        median,
    }
}

/// The median of each figure on its own.
fn medians(runs: &[Measured]) -> Measured {
    let seconds = |pick: fn(&Measured) -> f64| {
        let mut all: Vec<f64> = runs.iter().map(pick).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let bytes = |pick: fn(&Measured) -> u64| {
        let mut all: Vec<u64> = runs.iter().map(pick).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    Measured {
        contender: runs[0].contender.clone(),
        usage: watch::Usage {
            wall_seconds: seconds(|run| run.usage.wall_seconds),
            cpu_seconds: seconds(|run| run.usage.cpu_seconds),
            peak_rss_bytes: bytes(|run| run.usage.peak_rss_bytes),
            temp_peak_bytes: bytes(|run| run.usage.temp_peak_bytes),
        },
        files_out: bytes(|run| run.files_out),
        bytes_out: bytes(|run| run.bytes_out),
        memory_limit_mib: runs.iter().map(|run| run.memory_limit_mib).max().flatten(),
        out_of_memory: runs.iter().any(|run| run.out_of_memory),
    }
}

#[allow(clippy::cast_precision_loss, reason = "shown to three digits")]
fn print(figures: &Figures, out: &mut impl Write) -> io::Result<()> {
    let mb = |bytes: u64| bytes as f64 / 1e6;
    writeln!(
        out,
        "\n{}: {} files, {} rows, {:.0} MB\n\n| | wall | CPU | peak RSS | temp disk | output | rows/s | MB/s in | wall | CPU | RSS | bytes | wall in our memory |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        figures.case,
        figures.files,
        figures.rows,
        mb(figures.bytes_in)
    )?;
    for row in &figures.contenders {
        let Row { median: m, .. } = row;
        let limit = m.memory_limit_mib.map(|mib| format!(" ({mib} MiB)")).unwrap_or_default();
        if m.out_of_memory {
            let Measured { usage, .. } = m;
            let (wall, rss, temp) = (usage.wall_seconds, mb(usage.peak_rss_bytes), mb(usage.temp_peak_bytes));
            writeln!(
                out,
                "| {}{limit} | out of memory after {wall:.2} s | | {rss:.0} MB | {temp:.0} MB |",
                m.contender
            )?;
            continue;
        }
        let in_our_memory = row.wall_ratio_in_our_memory.map(|ratio| format!("{ratio:.2}x")).unwrap_or_default();
        writeln!(
            out,
            "| {}{limit} | {:.2} s | {:.2} s | {:.0} MB | {:.0} MB | {:.1} MB | {:.1} M | {:.0} | {:.2}x | {:.2}x | {:.3}x | {:.3}x | {in_our_memory} |",
            m.contender,
            m.usage.wall_seconds,
            m.usage.cpu_seconds,
            mb(m.usage.peak_rss_bytes),
            mb(m.usage.temp_peak_bytes),
            mb(m.bytes_out),
            row.rows_per_second / 1e6,
            row.mb_in_per_second,
            row.wall_ratio,
            row.cpu_ratio,
            row.rss_ratio,
            row.bytes_ratio
        )?;
    }
    if !figures.queries.is_empty() {
        writeln!(out, "\n| query | through | small files | compacted | |\n|---|---|---|---|---|")?;
    }
    let cost = |cost: &Cost| {
        let time = format!("{:.0} ms", cost.seconds * 1e3);
        match (cost.requests, cost.bytes) {
            (Some(requests), Some(bytes)) => format!("{time}, {requests} requests, {:.1} MB", mb(bytes)),
            _ => time,
        }
    };
    for Answer { query, through, before, after } in &figures.queries {
        let through = match through {
            Through::LocalDisk => "DuckDB, local disk",
            Through::S3With20Ms => "column reader, S3 with 20 ms",
        };
        let ratio = before.seconds / after.seconds;
        writeln!(out, "| {query} | {through} | {} | {} | {ratio:.1}x |", cost(before), cost(after))?;
    }
    out.flush()
}
