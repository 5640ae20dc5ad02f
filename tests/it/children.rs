//! I10 and T25 with the real program: a merge worker that dies costs at most its job, and none outlives its parent.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::support::{Arc, PARTITION, telemetry};

/// A partition whose merge takes a moment, so that its worker can be met alive.
fn inputs() -> Arc {
    let arc = Arc::new();
    for i in 0..4 {
        let query = format!("{} ORDER BY hash(i)", telemetry(i * 1000, 400_000 + i * 1000));
        arc.write(PARTITION, &format!("{i}.parquet"), &query);
    }
    arc
}

fn start(arc: &Arc) -> Child {
    Command::new(assert_cmd::cargo::cargo_bin("arc"))
        .arg("--config")
        .arg(arc.config_file())
        .args(["compact", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The merge worker of a process, as soon as there is one other than `last`. `None`: the process has ended.
fn worker_of(parent: &mut Child, last: Option<u32>) -> Option<u32> {
    let tasks = format!("/proc/{}/task", parent.id());
    while parent.try_wait().unwrap().is_none() {
        let children = fs::read_dir(&tasks).into_iter().flatten().flatten();
        let children = children.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        let found: Vec<u32> =
            children.flat_map(|c| c.split_whitespace().map(|p| p.parse().unwrap()).collect::<Vec<_>>()).collect();
        // Between fork and exec it is still a copy of its parent.
        let is_worker = |pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(12).any(|w| w == b"merge-worker"))
        };
        if let Some(worker) = found.into_iter().filter(|pid| Some(*pid) != last).find(is_worker) {
            return Some(worker);
        }
        thread::yield_now();
    }
    None
}

/// Sends a signal. A process that has just ended by itself is no error.
fn signal(name: &str, pid: u32) {
    Command::new("kill").args(["-s", name, &pid.to_string()]).stderr(Stdio::null()).status().unwrap();
}

#[test]
fn a_worker_that_is_killed_or_crashes_once_is_replaced_and_the_job_is_done() {
    for name in ["KILL", "SEGV"] {
        let arc = inputs();
        let before = arc.rows(PARTITION);
        let mut run = start(&arc);
        let worker = worker_of(&mut run, None).expect("the merge runs in a child");
        signal(name, worker);
        let output = run.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(arc.live(PARTITION).len(), 1, "{name}");
        assert_eq!(arc.rows(PARTITION), before, "{name}");
        arc.assert_nothing_left_over(PARTITION);
    }
}

/// I2: whatever becomes of the workers, the inputs stay, and no file is blamed for it.
#[test]
fn when_every_worker_is_killed_the_job_fails_and_the_inputs_are_as_they_were() {
    let arc = inputs();
    let before = arc.storage_state();
    let mut run = start(&arc);
    let mut last = None;
    while let Some(worker) = worker_of(&mut run, last) {
        signal("KILL", worker);
        last = Some(worker);
    }
    let output = run.wait_with_output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(report["jobs_failed"], 1, "{report:#}");
    let in_partition = |state: std::collections::BTreeMap<_, _>| -> Vec<_> {
        state
            .into_iter()
            .filter(|(path, _): &(std::path::PathBuf, _)| path.starts_with(arc.folder(PARTITION)))
            .collect()
    };
    assert_eq!(in_partition(arc.storage_state()), in_partition(before));
    arc.assert_nothing_left_over(PARTITION);
    arc.compact_well();
    assert_eq!(arc.live(PARTITION).len(), 1);
}

/// T25. The worker is stopped, so that it can do nothing about it itself.
#[test]
fn no_worker_survives_a_parent_that_is_killed_even_if_it_is_stopped() {
    let arc = inputs();
    let before = arc.rows(PARTITION);
    let mut run = start(&arc);
    let worker = worker_of(&mut run, None).expect("the merge runs in a child");
    // It asks the kernel to die with its parent before it does anything else, and then lowers its priority no more.
    while !fs::read_to_string(format!("/proc/{worker}/oom_score_adj")).is_ok_and(|score| score.trim() == "1000") {
        thread::yield_now();
    }
    let stat = format!("/proc/{worker}/task/{worker}/children");
    while Path::new(&stat).exists() && threads(worker) < 2 {
        thread::yield_now();
    }
    signal("STOP", worker);
    run.kill().unwrap();
    run.wait().unwrap();
    // Gone, or a zombie that nobody has collected.
    while fs::read_to_string(format!("/proc/{worker}/stat"))
        .is_ok_and(|s| !s.rsplit(')').next().unwrap().starts_with(" Z"))
    {
        thread::yield_now();
    }
    arc.compact_well();
    assert_eq!(arc.live(PARTITION).len(), 1);
    assert_eq!(arc.rows(PARTITION), before);
    arc.assert_nothing_left_over(PARTITION);
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(usize::MAX, Iterator::count)
}
