//! Too few file descriptors, too little address space, and the out-of-memory killer.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::finishes_the_work;
use crate::support::{Arc, PARTITION, Run, again, telemetry};

/// The program under a limit that `sh` sets.
fn limited(arc: &Arc, limit: &str) -> Run {
    let mut command = Command::new("sh");
    command
        .args(["-euc", &format!(r#"{limit}; exec "$0" --config "$1" compact --json"#)])
        .arg(assert_cmd::cargo::cargo_bin("arc"))
        .arg(arc.config_file())
        .current_dir(arc.dir());
    Run::from(command.output().unwrap())
}

/// From a number with which the program cannot even start to one that suffices, every one that is likely to hit another
/// place.
#[test]
fn too_few_file_descriptors_at_any_point_lose_nothing_and_are_named() {
    let mut outcomes = Vec::new();
    for descriptors in again::each([8, 12, 16, 20, 24, 32, 48, 64, 128], u32::to_string) {
        let arc = Arc::new();
        arc.write_telemetry(PARTITION, 60, 2);
        let rows = arc.rows(PARTITION);
        let run = limited(&arc, &format!("ulimit -n {descriptors}"));
        if run.code != 0 {
            let said = format!("{}{}", run.stdout, run.stderr).to_lowercase();
            let named = ["too many open files", "unable to open database file", "cannot open shared object"];
            assert!(named.iter().any(|words| said.contains(words)), "{descriptors}: {run:#?}");
        }
        outcomes.push(run.code);
        let blamed = Run::of(&mut arc.command(&["quarantine", "list", "--json"])).json();
        assert_eq!(blamed["files"].as_array().map(Vec::len), Some(0), "{descriptors}: no file is blamed: {blamed:#}");
        finishes_the_work(&arc, &rows);
    }
    let both = outcomes.contains(&0) && outcomes.iter().any(|code| *code != 0);
    assert!(both || again::is_one_point(), "{outcomes:?}");
}

/// Address space instead of memory: what a machine without a memory controller can limit.
#[test]
fn too_little_address_space_at_any_point_loses_nothing() {
    let mut outcomes = Vec::new();
    for megabytes in again::each([25, 50, 75, 100, 300, 600, 1000, 8000], u64::to_string) {
        let arc = Arc::new();
        arc.write_telemetry(PARTITION, 4, 500);
        let rows = arc.rows(PARTITION);
        let run = limited(&arc, &format!("ulimit -v {}", megabytes * 1024));
        outcomes.push(run.code);
        let blamed = Run::of(&mut arc.command(&["quarantine", "list", "--json"])).json();
        assert_eq!(blamed["files"].as_array().map(Vec::len), Some(0), "{megabytes}: no file is blamed: {blamed:#}");
        finishes_the_work(&arc, &rows);
    }
    let both = outcomes.contains(&0) && outcomes.iter().any(|code| *code != 0);
    assert!(both || again::is_one_point(), "{outcomes:?}");
}

/// A control group of this test's own, removed when dropped.
struct Group {
    folder: PathBuf,
    limit: &'static str,
    events: &'static str,
}

impl Group {
    /// `None` where the test may not make one.
    fn make() -> Option<Self> {
        let name = format!("arc-test-{}", std::process::id());
        let kinds = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"),
            ("/sys/fs/cgroup", "memory.max", "memory.events"),
        ];
        kinds.into_iter().find_map(|(root, limit, events)| {
            let folder = Path::new(root).join(&name);
            fs::create_dir(&folder).ok()?;
            let group = Self { folder, limit, events };
            (group.folder.join(limit).exists() && group.folder.join("cgroup.procs").exists()).then_some(group)
        })
    }

    fn limit(&self, bytes: u64) {
        fs::write(self.folder.join(self.limit), bytes.to_string()).unwrap();
    }

    /// How many processes the kernel has killed in it.
    fn kills(&self) -> u64 {
        let events = fs::read_to_string(self.folder.join(self.events)).unwrap();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.map_or(0, |n| n.trim().parse().unwrap())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Empty by now; a group with processes in it cannot be removed.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// I10. The kernel chooses whom it kills; a merge worker offers itself. `children.rs` has the same by SIGKILL, for machines
/// where no control group can be made; with `ARC_REQUIRE_CGROUP` that is a failure.
#[test]
fn the_out_of_memory_killer_takes_the_worker_and_the_program_lives() {
    let Some(group) = Group::make() else {
        let required = again::asked("ARC_REQUIRE_CGROUP").is_some();
        assert!(!required, "a memory control group is required here and cannot be made");
        println!("SKIPPED: no memory control group can be made here; children.rs kills workers by signal instead");
        return;
    };
    let arc = Arc::with("min_files = 2\nmemory_limit_mb = 1500");
    for i in 0..4 {
        let query = format!("{} ORDER BY hash(i)", telemetry(i * 1000, 400_000 + i * 1000));
        arc.write(PARTITION, &format!("{i}.parquet"), &query);
    }
    let before = crate::support::fingerprint(&arc.live_paths(PARTITION)).unwrap();
    let mut child = Command::new("sh")
        .args(["-euc", r#"echo $$ > "$0/cgroup.procs"; exec "$1" --config "$2" compact --json"#])
        .arg(&group.folder)
        .arg(assert_cmd::cargo::cargo_bin("arc"))
        .arg(arc.config_file())
        .current_dir(arc.dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("Starting compaction job") && log.read_line(&mut said).unwrap() > 0 {}
    // Enough for the program alone, and for no merge.
    let resident = fs::read_to_string(format!("/proc/{}/statm", child.id())).unwrap();
    let pages: u64 = resident.split_whitespace().nth(1).unwrap().parse().unwrap();
    group.limit(pages * 4096 + (24 << 20));
    log.read_to_string(&mut said).unwrap();
    let output = child.wait_with_output().unwrap();
    let kills = group.kills();
    assert!(kills > 0, "nobody was killed: {said}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    println!("{kills} workers were killed; the run ended with {:?}", output.status.code());
    assert_eq!(
        report["jobs"][0]["inputs_quarantined"].as_array().map(Vec::len),
        Some(0),
        "no file is blamed: {report:#}"
    );
    assert_eq!(crate::support::fingerprint(&arc.live_paths(PARTITION)).unwrap(), before);
    arc.compact_well();
    assert_eq!(crate::support::fingerprint(&arc.live_paths(PARTITION)).unwrap(), before);
    assert_eq!(arc.live(PARTITION).len(), 1);
    arc.assert_nothing_left_over(PARTITION);
}
