//! Memory and speed with a bucket, measured on the real program and on real sockets.
//!
//! How much is measured can be said by `ARC_MEMORY_PARTITION_MB` (2,000 for the figure in the README); the numbers are
//! printed with `--nocapture`.

use std::collections::HashMap;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Arc as Shared, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use arc::clock::SystemClock;
use arc::compaction::Scope;
use arc::compaction::events::{Event, EventSink, Step};
use arc::merge::DuckDbEngine;
use arc::storage::settings::Patience;
use tokio_util::sync::CancellationToken;

use crate::object_store::remote::{NoHook, Remote, random_file};
use crate::support::proxy::{Proxy, Wire};
use crate::support::servers::Kind;
use crate::support::stores::manager_telling;
use crate::support::{PARTITION, again, block_on};

const MB: u64 = 1_000_000;
/// What is compacted unless the environment says otherwise.
const PARTITION_MB: u64 = 300;

/// Parent and child together. 700 MB are promised whatever the size of the partition; a third of its inputs held in memory would
/// stay below that, and must be seen. Measured: 247 MB for 200 MB, 258 MB for 400 MB, 270 MB for 2,000 MB.
const fn most_resident_bytes(partition_bytes: u64) -> u64 {
    320 * MB + partition_bytes / 20
}

/// Rows of a file of 10 MB.
const ROWS: usize = 155_000;

fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// What a process and its descendants have resident, in bytes.
fn resident_bytes(root: u32) -> u64 {
    let mut processes = HashMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<u64>() else { continue };
        // It may have ended meanwhile.
        let Ok(status) = fs::read_to_string(entry.path().join("status")) else { continue };
        let parent = field(&status, "PPid:").unwrap_or_default();
        processes.insert(id, (parent, field(&status, "VmRSS:").unwrap_or_default() * 1024));
    }
    let belongs = |mut id: u64| {
        while id > 1 {
            if id == u64::from(root) {
                return true;
            }
            id = processes.get(&id).map_or(0, |(parent, _)| *parent);
        }
        false
    };
    processes.iter().filter(|(id, _)| belongs(**id)).map(|(_, (_, bytes))| bytes).sum()
}

/// T46, T47: the real program, merging in a child process, with the settings that it is shipped with on a machine of two
/// processors.
#[test]
fn memory_stays_flat_while_a_large_partition_is_compacted() {
    const LOOK_EVERY: Duration = Duration::from_millis(20);
    let megabytes = again::asked_number("ARC_MEMORY_PARTITION_MB").unwrap_or(PARTITION_MB);
    let Some(remote) = Remote::with(Kind::Moto, "min_files = 2\nsettle_seconds = 0\nthreads = 2") else { return };
    let files = usize::try_from(megabytes / 10).unwrap();
    let mut written = 0;
    for number in 0..files {
        let file = random_file(number, ROWS);
        written += file.len() as u64;
        remote.put(PARTITION, &format!("cpu_{number:04}.parquet"), file);
    }
    assert!(written.abs_diff(megabytes * MB) < megabytes * MB / 10, "{written} bytes");

    let began = Instant::now();
    let mut command: Command = remote.arc.server_command();
    let mut program =
        command.arg("compact").stdout(Stdio::piped()).stderr(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
    let mut most = 0;
    while program.try_wait().unwrap().is_none() {
        most = most.max(resident_bytes(program.id()));
        // The kernel remembers the most of each process, but not of all of them together, so that takes looks. How often is a
        // matter of accuracy; the end of the program ends them.
        thread::park_timeout(LOOK_EVERY);
    }
    let took = began.elapsed();
    let output = program.wait_with_output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    #[allow(clippy::print_stdout, reason = "the figure is what this is for")]
    {
        println!(
            "{megabytes} MB in {files} files: {} MB resident at most, {took:.1?}; {}",
            most / MB,
            report["storage"]
        );
    }
    assert_eq!((&report["jobs_completed"], &report["files_compacted"]), (&1.into(), &files.into()), "{report:#}");
    let bound = most_resident_bytes(written);
    assert!(most < bound && bound < 700 * MB, "{} MB resident, {} MB allowed", most / MB, bound / MB);
    assert!(most > 20 * MB, "nothing was measured");
    let rows = remote.row_count();
    assert_eq!(rows, files * ROWS);
}

/// How long the inputs of a job take to be fetched, with this much time added to every request.
fn fetch_time(remote: &Remote, latency: Duration) -> Duration {
    let proxy = Proxy::start(&remote.bucket.address, move |_, _| Wire::Delayed(latency));
    let began = Shared::new(Mutex::new(HashMap::new()));
    let told = Shared::clone(&began);
    let stop = CancellationToken::new();
    let enough = stop.clone();
    let events = EventSink::new(move |event| {
        if let Event::JobStep { step, .. } = event {
            told.lock().unwrap().entry(step.as_str()).or_insert_with(Instant::now);
            // The same files are fetched again.
            if step == Step::Merge {
                enough.cancel();
            }
        }
    });
    let storage = remote.bucket.through(&proxy.address).patient(&Patience::default());
    let (hook, engine, clock) = (Shared::new(NoHook), Shared::new(DuckDbEngine), Shared::new(SystemClock));
    let manager = manager_telling(&remote.config(), storage, hook, engine, clock, events);
    block_on(manager.run_compaction_cycle(Scope::default(), stop)).unwrap();
    let began = began.lock().unwrap();
    began["merge"] - began["fetch"]
}

/// Compare `requests`, which proves it on paused time. 720 files of 128 KB, one after the other, would take 15 s.
#[test]
fn files_of_a_distant_server_are_fetched_side_by_side() {
    const LATENCY: Duration = Duration::from_millis(20);
    let Some(remote) = Remote::new(Kind::FakeGcs) else { return };
    let file = random_file(0, 2_000);
    for number in 0..720 {
        remote.put(PARTITION, &format!("cpu_{number:04}.parquet"), file.clone());
    }
    let line = fetch_time(&remote, Duration::ZERO);
    let distant = fetch_time(&remote, LATENCY);
    #[allow(clippy::print_stdout, reason = "the figure is what this is for")]
    {
        println!("720 files of {} KB: {line:.2?} without latency, {distant:.2?} with 20 ms", file.len() / 1000);
    }
    assert!(distant < LATENCY * 720 / 4, "{distant:?}, and {line:?} without latency");
}
