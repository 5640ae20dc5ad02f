//! Runs a command and watches what its whole process tree uses.
//!
//! Memory is sampled: the resident sizes of the process and all its descendants, added, every few milliseconds. Pages that
//! two of them share count twice, so the sum is never too small for what was resident at a sample; a peak between two
//! samples is missed. CPU time is exact to a clock tick of 10 ms: what the kernel books to waited-for children.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

/// Between two samples of memory. A sample costs some tenths of a millisecond, which are taken from what is measured.
const SAMPLE: Duration = Duration::from_millis(10);

/// Every so many samples the temporary folders are measured, too.
const DISK_EVERY: u64 = 20;

/// Clock ticks per second in `/proc/PID/stat`: fixed on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a command used.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Usage {
    pub wall_seconds: f64,
    /// User and system, all processes.
    pub cpu_seconds: f64,
    /// Largest sum of the resident sizes of all processes of the tree.
    pub peak_rss_bytes: u64,
    /// Largest size of everything in the temporary folders.
    pub temp_peak_bytes: u64,
}

/// Runs `command` to its end, good or bad. `temp` are the folders whose growth counts as temporary disk.
pub fn run(mut command: Command, temp: &[PathBuf]) -> anyhow::Result<(Usage, ExitStatus)> {
    let cpu_before = cpu_of_children()?;
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("start {}", command.get_program().display()))?;
    let (status, peak_rss_bytes, temp_peak_bytes) = watch(&mut child, temp)?;
    let wall_seconds = start.elapsed().as_secs_f64();
    let cpu_seconds = cpu_of_children()? - cpu_before;
    Ok((Usage { wall_seconds, cpu_seconds, peak_rss_bytes, temp_peak_bytes }, status))
}

fn watch(child: &mut Child, temp: &[PathBuf]) -> anyhow::Result<(ExitStatus, u64, u64)> {
    let (mut rss, mut disk, mut samples) = (0, 0, 0_u64);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, rss, disk));
        }
        rss = rss.max(tree_rss(child.id()));
        if samples.is_multiple_of(DISK_EVERY) {
            disk = disk.max(temp.iter().map(|folder| size_of_folder(folder)).sum());
        }
        samples += 1;
        thread::sleep(SAMPLE);
    }
}

/// Resident bytes of a process and its descendants. Only these are looked at: what a look costs is taken from what is
/// measured, and looking through all processes of a machine took a third of a core.
fn tree_rss(root: u32) -> u64 {
    let (mut todo, mut bytes) = (vec![root], 0);
    while let Some(pid) = todo.pop() {
        bytes += arc::merge::resources::ProcessMemory::of(pid).map_or(0, |memory| memory.resident_bytes);
        todo.extend(children_of(pid));
    }
    bytes
}

/// The processes that any thread of a process has started.
fn children_of(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|children| children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

fn cpu_of_children() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat_fields(&stat);
    // The 16th and 17th of the line; the first two went with the name.
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).context("read /proc/self/stat");
    Ok((ticks(13)? + ticks(14)?) / TICKS_PER_SECOND)
}

/// The fields after the process's name, which may hold spaces.
fn stat_fields(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map_or_else(Vec::new, |(_, rest)| rest.split_whitespace().collect())
}

/// Bytes of all files below `folder`. What vanishes meanwhile counts nothing.
pub fn size_of_folder(folder: &Path) -> u64 {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(m) if m.is_dir() => size_of_folder(&entry.path()),
            Ok(m) if m.is_file() => m.len(),
            _ => 0,
        })
        .sum()
}
