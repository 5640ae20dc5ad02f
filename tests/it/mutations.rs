//! Tests that can fail: for each line of production code that the promise rests on, a way to break it, and the tests that
//! then fail.
//!
//! ```text
//! just mutants                    all of them, one line each: caught or survived, by whom, in how many seconds
//! just mutants inputs_from_plan   those whose name contains a text
//! ```
//!
//! That copies the sources below the target folder, breaks all places in the copy at once, each under a condition, builds the
//! tests of the copy once, and runs the named ones with one mutation after the other switched on. What switches them on
//! is in the copy only: nothing in `src` knows of this.
//!
//! Every test run checks the table itself: each old text stands exactly once in its file, and each named test exists. So the
//! table cannot rot. A change of a line that stands here needs its mutation thought over anew.
//!
//! A mutation that breaks nothing is listed, too, where somebody could take the line for the only guard: with the reason, and
//! with the test of the other one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::again;

mod commit;
mod job;
mod leases;
mod merge;
mod partition;
mod runner;
mod storage;
mod survey;

/// A way to break a rule.
#[derive(Debug)]
pub struct Mutation {
    /// What it is asked for by.
    pub name: &'static str,
    /// The rule that no longer holds, with its number where it has one.
    pub breaks: &'static str,
    /// Below the repository.
    pub file: &'static str,
    /// Old text, new text. In the new one, `MUTANT` is true while this mutation is switched on.
    pub edits: &'static [(&'static str, &'static str)],
    pub fate: Fate,
}

/// Tests are named as their binaries do, after the binary: `it` or `lib`.
#[derive(Debug)]
pub enum Fate {
    /// Every one of these tests fails.
    CaughtBy(&'static [&'static str]),
    /// Nothing is lost: something else guards the same, which these tests show. They pass.
    Harmless { because: &'static str, guarded_by: &'static [&'static str] },
}

impl Mutation {
    fn tests(&self) -> &'static [&'static str] {
        match self.fate {
            Fate::CaughtBy(tests) | Fate::Harmless { guarded_by: tests, .. } => tests,
        }
    }
}

fn all() -> impl Iterator<Item = &'static Mutation> + Clone {
    [
        job::MUTATIONS,
        commit::MUTATIONS,
        partition::MUTATIONS,
        storage::MUTATIONS,
        leases::MUTATIONS,
        merge::MUTATIONS,
        survey::MUTATIONS,
    ]
    .into_iter()
    .flatten()
}

/// The mutated files, with all mutations in them.
fn mutated(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    for Mutation { name, file, edits, .. } in all() {
        let path = root.join(file);
        let text: &mut String = files.entry(path.clone()).or_insert_with(|| fs::read_to_string(&path).unwrap());
        assert!(edits.iter().any(|(_, new)| new.contains("MUTANT")), "{name}: nothing switches it on");
        for (old, new) in *edits {
            let times = text.matches(old).count();
            assert_eq!(times, 1, "{name}: {file} has this text {times} times, and it must have it once:\n{old}");
            *text = text.replacen(old, &new.replace("MUTANT", &format!("crate::mutant({name:?})")), 1);
        }
    }
    files
}

/// The file in which a test is, by the modules of its name: the deepest one that there is.
fn file_of(root: &Path, test: &str) -> (PathBuf, String) {
    let (binary, path) = test.split_once(' ').expect("binary and test");
    let mut folder = root.join(if binary == "lib" { "src" } else { "tests/it" });
    let modules: Vec<&str> = path.split("::").collect();
    let (function, modules) = modules.split_last().expect("a test has a name");
    let mut file = PathBuf::new();
    for module in modules {
        folder.push(module);
        for found in [folder.with_extension("rs"), folder.join("mod.rs")] {
            if found.is_file() {
                file = found;
            }
        }
    }
    assert!(file.is_file(), "there is no module of {test}");
    (file, (*function).to_owned())
}

#[test]
fn every_mutation_has_its_place_and_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = mutated(root);
    assert!(files.values().all(|text| !text.contains("MUTANT")));
    let mut names = BTreeSet::new();
    for mutation in all() {
        let Mutation { name, breaks, fate, .. } = mutation;
        assert!(names.insert(name), "{name} stands twice in the table");
        assert!(!breaks.is_empty() && !mutation.tests().is_empty(), "{name} says too little");
        if let Fate::Harmless { because, .. } = fate {
            assert!(!because.is_empty(), "{name}: why is it harmless?");
        }
        for test in mutation.tests() {
            let (file, function) = file_of(root, test);
            let text = fs::read_to_string(&file).unwrap();
            let at = text.find(&format!("fn {function}("));
            let at = at.unwrap_or_else(|| panic!("{name}: there is no test {test} in {}", file.display()));
            let before =
                text[..at].rsplit_once('\n').map_or("", |(before, _)| before).lines().rev().map(str::trim_start);
            let mut attributes = before.take_while(|line| line.starts_with(['#', '/']));
            assert!(
                attributes.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test")),
                "{name}: {test} is no test"
            );
        }
    }
}

/// What `just mutants` runs. Takes minutes, so it does nothing unless it is asked for.
#[test]
fn mutations_that_are_asked_for_are_caught() {
    if let Some(text) = again::asked("ARC_MUTANTS") {
        runner::run(&text);
    }
}
