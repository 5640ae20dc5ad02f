//! Who merges: plain DuckDB statements, and this service.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::ensure;
use duckdb::{Config, Connection};
use serde::Serialize;

use crate::scenario::Partition;
use crate::watch::{self, Usage};

/// The hidden argument under which this program runs the statements of a plain contender.
pub const PLAIN_ARGUMENT: &str = "--run-plain-statements";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// One statement per partition, one after another, as a user would write it.
    Naive,
    /// The same with a memory limit in MiB.
    NaiveWithin(u64),
    /// The same with the largest peak of `arc compact`, `verify = "content"`, so far as its memory limit.
    NaiveInOurMemory,
    /// `arc compact` with this value of `verify` and so many jobs at a time.
    Arc { verify: &'static str, jobs: usize },
}

/// One run of a contender over a scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    pub contender: String,
    #[serde(flatten)]
    pub usage: Usage,
    pub files_out: u64,
    pub bytes_out: u64,
    /// Of a plain statement. It holds for what DuckDB counts, which is less than what is resident.
    pub memory_limit_mib: Option<u64>,
    /// The plain statement gave up: the other figures are those until then.
    pub out_of_memory: bool,
}

/// What a contender has to do, and where.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    pub partitions: &'a [Partition],
    /// The base below which their files are.
    pub source: &'a Path,
    /// A fresh folder, removed again.
    pub work: &'a Path,
    /// The largest peak of resident memory of `arc compact`, `verify = "content"`, so far.
    pub our_peak_bytes: u64,
}

/// How a run ended.
struct Ended {
    usage: Usage,
    outputs: Vec<PathBuf>,
    out_of_memory: bool,
}

impl Contender {
    pub fn name(self) -> String {
        match self {
            Self::Naive => "plain statement".to_owned(),
            Self::NaiveWithin(_) => "plain statement with a limit".to_owned(),
            Self::NaiveInOurMemory => "plain statement with our peak as limit".to_owned(),
            Self::Arc { verify, .. } => format!("arc, verify = {verify}"),
        }
    }

    /// As [`Self::run`], and gives the work folder, with what came out, to `look` before it is removed.
    pub fn run_and_look<T>(
        self,
        task: Task<'_>,
        look: impl FnOnce(&Path) -> anyhow::Result<T>,
    ) -> anyhow::Result<(Measured, T)> {
        fs::create_dir_all(task.work)?;
        let memory_limit_mib = match self {
            Self::NaiveWithin(mib) => Some(mib),
            Self::NaiveInOurMemory => Some(task.our_peak_bytes.div_ceil(1 << 20)),
            Self::Naive | Self::Arc { .. } => None,
        };
        let Ended { usage, outputs, out_of_memory } = match self {
            Self::Naive | Self::NaiveWithin(_) | Self::NaiveInOurMemory => run_plain(memory_limit_mib, task)?,
            Self::Arc { verify, jobs } => run_arc(verify, jobs, task)?,
        };
        let bytes_out = outputs.iter().map(|path| fs::metadata(path).map_or(0, |m| m.len())).sum();
        let files_out = outputs.len() as u64;
        let measured =
            Measured { contender: self.name(), usage, files_out, bytes_out, memory_limit_mib, out_of_memory };
        let seen = look(task.work)?;
        fs::remove_dir_all(task.work)?;
        Ok((measured, seen))
    }

    /// Merges the partitions of `task`.
    pub fn run(self, task: Task<'_>) -> anyhow::Result<Measured> {
        self.run_and_look(task, |_| Ok(())).map(|(measured, ())| measured)
    }
}

fn run_plain(limit_mib: Option<u64>, task: Task<'_>) -> anyhow::Result<Ended> {
    let Task { partitions, source, work, .. } = task;
    let (spill, log) = (work.join("spill"), work.join("log"));
    fs::create_dir(&spill)?;
    let outputs: Vec<PathBuf> = (0..partitions.len()).map(|i| work.join(format!("{i}.parquet"))).collect();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(PLAIN_ARGUMENT).arg(limit_mib.unwrap_or(0).to_string()).arg(&spill);
    for (partition, out) in partitions.iter().zip(&outputs) {
        command.arg(partition.folder(source)).arg(out);
    }
    command.stderr(fs::File::create(&log)?);
    let (usage, status) = watch::run(command, &[spill])?;
    let said = fs::read_to_string(&log)?;
    let out_of_memory = !status.success() && limit_mib.is_some() && said.contains("Out of Memory");
    ensure!(status.success() || out_of_memory, "the plain statement ended with {status}: {said}");
    Ok(Ended { usage, outputs, out_of_memory })
}

/// The child's side: `limit_mib spill-folder (partition-folder output)…`.
pub fn plain_statements(arguments: &[String]) -> anyhow::Result<()> {
    let [limit, spill, pairs @ ..] = arguments else { anyhow::bail!("too few arguments") };
    for pair in pairs.chunks_exact(2) {
        let mut config = Config::default().with("temp_directory", spill)?;
        if limit != "0" {
            config = config.with("memory_limit", format!("{limit}MiB"))?;
        }
        // A statement of its own each: nothing is kept from one partition to the next.
        Connection::open_in_memory_with_flags(config)?.execute_batch(&format!(
            "COPY (SELECT * FROM read_parquet('{}/*.parquet', union_by_name = true) ORDER BY time) \
             TO '{}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 3, ROW_GROUP_SIZE 122880)",
            pair[0], pair[1]
        ))?;
    }
    Ok(())
}

fn run_arc(verify: &str, jobs: usize, task: Task<'_>) -> anyhow::Result<Ended> {
    let Task { partitions, source, work, .. } = task;
    let (base, temp) = (work.join("data"), work.join("temp"));
    for partition in partitions {
        partition.link(source, &base)?;
    }
    let config = work.join("arc.conf");
    let text = format!(
        "[state]\ndb_path = '{}'\n[storage.local]\nbase_path = '{}'\n\
         [compaction]\ntemp_dir = '{}'\nverify = {verify:?}\nmax_concurrent_jobs = {jobs}\n",
        work.join("arc.db").display(),
        base.display(),
        temp.display()
    );
    fs::write(&config, text)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_arc"));
    let log = fs::File::create(work.join("log"))?;
    command.args(["compact", "--json", "--log-level", "warn", "--config"]).arg(&config);
    command.stdout(Stdio::null()).stderr(log);
    let (usage, status) = watch::run(command, &[temp, base.join("_compaction_staging")])?;
    ensure!(status.success(), "arc ended with {status}: {}", fs::read_to_string(work.join("log"))?);
    let mut outputs = Vec::new();
    for partition in partitions {
        for entry in fs::read_dir(partition.folder(&base))? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "parquet") {
                let compacted = path.to_string_lossy().ends_with("_compacted.parquet");
                ensure!(compacted, "{} was left behind", path.display());
                outputs.push(path);
            }
        }
    }
    ensure!(outputs.len() >= partitions.len(), "a partition has no output");
    Ok(Ended { usage, outputs, out_of_memory: false })
}
