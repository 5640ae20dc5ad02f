//! The README is read by people who then do what it says (T66).

use std::fs;
use std::path::Path;

use std::process::Command;

use crate::support::served::TOKEN;
use crate::support::{Arc, PARTITION, Run};

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// Commands exist with the flags that are shown, every key of `[compaction]` is in the table, links lead somewhere.
/// T66.
#[test]
fn the_readme_says_what_is_so() {
    let text = readme();
    let arc = Arc::new();
    let mut commands = 0;
    for line in text.lines().filter_map(|l| l.strip_prefix("arc ")) {
        let words: Vec<&str> = line.split('#').next().unwrap().split_whitespace().chain(["--help"]).collect();
        let run = Run::of(&mut arc.command(&words));
        assert_eq!(run.code, 0, "arc {line}: {run:#?}");
        commands += 1;
    }
    assert!(commands >= 4, "only {commands} commands were found");
    for key in arc::config::KEYS.iter().filter_map(|key| key.name.strip_prefix("compaction.")) {
        assert!(text.contains(&format!("`{key}`")), "{key} is not in the table");
    }
    for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
        let there = Path::new(env!("CARGO_MANIFEST_DIR")).join(link).exists();
        assert!(there || link.starts_with("http"), "{link} leads nowhere");
    }
    assert!(!text.contains("@@"), "a placeholder was left");
}

/// Every example of a configuration is complete, and every policy is JSON.
#[test]
fn the_examples_of_the_readme_load() {
    let text = readme();
    let blocks = |language: &str| -> Vec<String> {
        let begin = format!("```{language}\n");
        text.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
    };
    let mut backends = Vec::new();
    for example in blocks("toml") {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("arc.conf");
        fs::write(&file, &example).unwrap();
        let config = arc::config::Config::load(&arc::config::Input { file: Some(file), ..Default::default() });
        backends.push(config.unwrap_or_else(|e| panic!("{example}: {e}")).storage.backend.as_str());
    }
    assert_eq!(backends, ["s3", "minio", "ceph", "gcs", "azure"]);
    for policy in blocks("json") {
        serde_json::from_str::<serde_json::Value>(&policy).unwrap();
    }
}

/// The calls of the server section, run by a shell as they are written, against the real server.
#[test]
fn the_calls_of_the_readme_work_as_written() {
    let text = readme();
    let block = text.split("export ARC_TOKEN").nth(1).unwrap().split("```").next().unwrap();
    let (_, calls) = block.split_once('\n').unwrap();
    let arc = Arc::with("min_files = 2\nschedule = '0 0 1 1 *'");
    arc.write_telemetry(&PARTITION.replacen("db", "prod", 1), 3, 10);
    let served = arc.serve();
    let calls = calls.replace("http://127.0.0.1:8000", &format!("http://{}", served.address));
    assert!(calls.contains(&served.address), "the server's address is where it was");
    let script = calls.lines().map(|line| format!("{line}\n")).collect::<Vec<_>>().concat();
    let output = Command::new("sh").args(["-euc", &script]).env("ARC_TOKEN", TOKEN).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answers = String::from_utf8(output.stdout).unwrap();
    for part in ["next_run", "total_jobs_completed", "candidates", "recent_jobs", "Compaction triggered", "# TYPE arc_"]
    {
        assert!(answers.contains(part), "{part} is in no answer: {answers}");
    }
}
