//! The README is read by people who then do what it says (T66).

use std::fs;
use std::path::Path;

use crate::support::{Arc, Run};

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// Commands exist with the flags that are shown, every key of `[compaction]` is in the table, links lead somewhere.
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
