//! The import directions of the house, checked on the source text: who may know whom.

use std::fs;
use std::path::Path;

/// Module, and the crate's modules that its production code may name.
const MAY_IMPORT: [(&str, &[&str]); 16] = [
    ("secret", &[]),
    ("partition", &[]),
    ("clock", &[]),
    ("schedule", &[]),
    ("state", &[]),
    ("metrics", &[]),
    ("storage", &["partition", "clock", "metrics", "secret"]),
    // Leases in a bucket: what the store answered is said in the words of storage, and in no others.
    ("lock", &["partition", "clock", "state", "storage"]),
    ("merge", &["partition", "clock"]),
    ("compaction", &["partition", "clock", "state", "storage", "lock", "merge"]),
    ("scheduler", &["clock", "schedule", "state", "compaction"]),
    ("monitoring", &["clock", "partition", "compaction", "metrics", "schedule", "state", "storage"]),
    (
        "api",
        &[
            "partition",
            "clock",
            "schedule",
            "state",
            "storage",
            "lock",
            "merge",
            "compaction",
            "scheduler",
            "monitoring",
            "metrics",
        ],
    ),
    ("telemetry", &["clock"]),
    ("auth", &["state", "secret"]),
    (
        "config",
        &[
            "partition",
            "clock",
            "schedule",
            "compaction::settings",
            "scheduler::SchedulerSettings",
            "auth::settings",
            "storage::settings",
            "secret",
            "telemetry",
        ],
    ),
];

/// Concrete adapters that only the composition root, the command line and tests may name.
const ADAPTERS: [&str; 6] =
    ["CompactionLock", "StorageLocks", "DuckDbEngine", "SubprocessEngine", "SystemClock", "LocalFileSystem"];

fn sources(module: &str) -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut paths = vec![src.join(format!("{module}.rs")), src.join(module)];
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else if path.is_file() {
            let name = path.strip_prefix(&src).unwrap().display().to_string();
            let is_test = ["test", "conformance", "fixtures"].iter().any(|t| name.contains(t));
            if !is_test {
                let text = fs::read_to_string(&path).unwrap();
                let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
                found.push((name, production));
            }
        }
    }
    assert!(!found.is_empty(), "no module {module}");
    found
}

fn code_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[test]
fn modules_import_only_what_the_layers_allow() {
    for (module, allowed) in MAY_IMPORT {
        for (file, text) in sources(module) {
            for line in code_lines(&text) {
                for (at, _) in line.match_indices("crate::") {
                    let named = &line[at + "crate::".len()..];
                    let own = named.starts_with(module);
                    let fine = own || allowed.iter().any(|a| named.starts_with(a));
                    assert!(fine, "{file} imports crate::{named}");
                }
            }
        }
    }
}

#[test]
fn only_the_composition_root_and_the_command_line_name_adapters() {
    for (module, _) in MAY_IMPORT {
        if matches!(module, "lock" | "merge" | "clock" | "storage") {
            continue; // where they live
        }
        for (file, text) in sources(module) {
            for line in code_lines(&text) {
                for adapter in ADAPTERS {
                    let named = line.contains(adapter) && !file.starts_with("telemetry");
                    assert!(!named, "{file} names {adapter}");
                }
            }
        }
    }
}

/// Time is read in one place, the environment in another.
#[test]
fn clock_and_environment_are_read_in_their_homes_only() {
    for module in MAY_IMPORT.map(|(m, _)| m) {
        for (file, text) in sources(module) {
            for line in code_lines(&text) {
                let clock = line.contains("Utc::now()") || line.contains("SystemTime::now()");
                assert!(!clock || file == "clock.rs", "{file} reads the clock");
                let environment = line.contains("env::var");
                // A child process is passed what the system's loader needs, unread.
                let fine = file.starts_with("config") || file == "merge/subprocess.rs";
                assert!(!environment || fine, "{file} reads the environment");
            }
        }
    }
}

/// Where tests let time pass, and why. On tokio's paused clock (`start_paused`) a sleep takes no time: it ends as soon as
/// nothing else can go on. Everything else waits for what happens: a line of a child, a gate, a barrier. What is looked for
/// are sleeps and the one real lease that runs out, not the deadlines of what is expected to happen much sooner.
const MAY_SLEEP: [(&str, &str); 16] = [
    ("src/api/scans/tests.rs", PAUSED),
    ("src/compaction/lease_guard.rs", PAUSED),
    ("src/server/tests.rs", "real time: is an answer that comes later than a limit for requests, four times 50 ms"),
    ("tests/it/architecture.rs", "this table"),
    ("tests/it/crash.rs", "a reader rests between two looks; nothing depends on how long"),
    ("tests/it/crash_matrix.rs", PAUSED),
    ("tests/it/frozen.rs", PAUSED),
    ("tests/it/object_store/figures.rs", "looks at the memory of processes from time to time, until they end"),
    (
        "tests/it/object_store/workers.rs",
        "real time: who is cut off from its bucket has nothing but its own clock, so a lease of 3 s runs out",
    ),
    ("tests/it/scheduler.rs", PAUSED),
    ("tests/it/sim/fate.rs", "the paused clock of `sim.rs`"),
    ("tests/it/sim/rest.rs", "the paused clock of `sim.rs`"),
    ("tests/it/sim/reader.rs", "the paused clock of `sim.rs`"),
    ("tests/it/support/proxy.rs", "is a slow server, which is what is tested; nobody relies on how slow"),
    ("tests/it/support/recording.rs", "paused clock: a distant store is one of virtual time"),
    ("tests/it/support/time.rs", "paused clock: what lets it pass"),
];

/// The file starts its tests with it.
const PAUSED: &str = "paused clock";

/// Whether a line lets time pass, by any path to the function.
fn sleeps(line: &str) -> bool {
    let calls = |name: &str| {
        let is_part_of_a_name = |before: &str| before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.');
        line.match_indices(name).any(|(at, _)| !is_part_of_a_name(&line[..at]) && !line[..at].ends_with("fn "))
    };
    calls("sleep(") || calls("sleep_until(") || line.contains("park_timeout(") || line.contains("SHORT_TTL")
}

/// What of a file is only for tests.
fn test_lines(path: &Path, text: &str) -> String {
    let name = path.display().to_string();
    let is_test =
        name.contains("tests/") || ["tests.rs", "testing.rs", "conformance.rs"].iter().any(|t| name.ends_with(t));
    if is_test { text.to_owned() } else { text.split("#[cfg(test)]\nmod tests {").skip(1).collect() }
}

#[test]
fn where_tests_may_let_time_pass_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sleeping = Vec::new();
    let mut paths = vec![root.join("src"), root.join("tests/it")];
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root).unwrap();
            let text = test_lines(name, &fs::read_to_string(&path).unwrap());
            if code_lines(&text).any(sleeps) {
                let is_paused = MAY_SLEEP.iter().any(|(file, why)| Path::new(file) == name && *why == PAUSED);
                assert!(!is_paused || text.contains("start_paused"), "{}: the clock is not paused", name.display());
                sleeping.push(name.display().to_string());
            }
        }
    }
    sleeping.sort();
    let mut allowed = MAY_SLEEP.map(|(file, _)| file);
    allowed.sort_unstable();
    assert_eq!(sleeping, allowed, "wait for what happens instead, on the paused clock, or say here why not");
}
