//! Copies, breaks, builds and runs. Only for a person who asks for it: a build of the copy takes as long as one of the crate.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Fate, Mutation, all, mutated};

/// Tests that take longer do not end: that is noticed, too. All of them take less without a mutation, which is looked at first.
const LIMIT: Duration = Duration::from_mins(3);
/// Of the simulation, enough for everything that it is named for.
const SEEDS: &str = "250";

/// Below the target folder: the name of the mutation that is switched on. Not a variable of the environment, because the tests
/// start the program with an empty one.
const SWITCHED_ON: &str = "mutants/switched_on";

/// What the copy's `lib.rs` ends with.
fn switch(target: &Path) -> String {
    let file = target.join(SWITCHED_ON);
    let file = file.display();
    format!(
        "
/// Whether this mutation is switched on.
#[allow(missing_docs)]
pub fn mutant(name: &str) -> bool {{
    static ON: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    ON.get_or_init(|| std::fs::read_to_string(r#\"{file}\"#).ok()).as_deref() == Some(name)
}}
"
    )
}

/// Runs the mutations whose names contain a text; all of them, when it is empty.
pub fn run(text: &str) {
    let chosen: Vec<&Mutation> = all().filter(|mutation| mutation.name.contains(text)).collect();
    assert!(!chosen.is_empty(), "no mutation has a name with {text:?}");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in the target folder");
    let (copy, switched_on) = (target.join("mutants/source"), target.join(SWITCHED_ON));
    copy_sources(Path::new(env!("CARGO_MANIFEST_DIR")), target, &copy);
    let started = Instant::now();
    let built = build(target, &copy);
    println!("built in {:.0} s", started.elapsed().as_secs_f64());

    let tests: BTreeSet<&str> = chosen.iter().flat_map(|mutation| mutation.tests()).copied().collect();
    let started = Instant::now();
    let _ = fs::remove_file(&switched_on);
    let failed = built.failing(&tests.into_iter().collect::<Vec<_>>());
    assert!(failed.is_empty(), "these fail without any mutation: {failed:#?}");
    println!("all tests pass without a mutation, in {:.0} s", started.elapsed().as_secs_f64());

    let mut wrong = Vec::new();
    for mutation in &chosen {
        let started = Instant::now();
        fs::write(&switched_on, mutation.name).unwrap();
        let failed = built.failing(mutation.tests());
        let (caught, expected) = match mutation.fate {
            Fate::CaughtBy(tests) => (failed.len() == tests.len(), true),
            Fate::Harmless { .. } => (!failed.is_empty(), false),
        };
        let word = match (caught, expected) {
            (true, true) => "caught  ",
            (false, false) => "harmless",
            (false, true) => "SURVIVED",
            (true, false) => "NOTICED ",
        };
        println!("{word} {:>6.1} s  {}  {}", started.elapsed().as_secs_f64(), mutation.name, failed.join(", "));
        if caught != expected {
            wrong.push(format!("{} {word}: {}", mutation.name, mutation.breaks));
        }
    }
    let _ = fs::remove_file(&switched_on);
    println!("{} mutations, {} not as the table says", chosen.len(), wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The sources with all mutations. What did not change is not written, so that little is built anew the next time.
fn copy_sources(root: &Path, target: &Path, copy: &Path) {
    let mut files = mutated(root);
    let lib = root.join("src/lib.rs");
    let text = files.remove(&lib).unwrap_or_else(|| fs::read_to_string(&lib).unwrap());
    files.insert(lib, text + &switch(target));
    // Cargo tells packages apart by name and version, and shares what is below the target folder between all of one.
    let manifest = root.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let (before, after) = text.split_once("\nedition").expect("it says its edition after its version");
    let before = before.strip_suffix('"').expect("a version ends with a quote");
    files.insert(manifest, format!("{before}-mutants\"\nedition{after}\n[workspace]\n"));
    let mut seen = BTreeSet::new();
    copy_folder((root, root, copy), target, &files, &mut seen);
    remove_others(copy, &seen);
}

fn copy_folder(
    (root, folder, copy): (&Path, &Path, &Path),
    target: &Path,
    files: &BTreeMap<PathBuf, String>,
    seen: &mut BTreeSet<PathBuf>,
) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default();
        if path == target || (folder == root && [".git", "target", "data", "Cargo.lock"].iter().any(|n| name == *n)) {
            continue;
        }
        if path.is_dir() {
            copy_folder((root, &path, copy), target, files, seen);
        } else if path.is_file() {
            let to = copy.join(path.strip_prefix(root).expect("below the repository"));
            let bytes = files.get(&path).map_or_else(|| fs::read(&path).unwrap(), |text| text.clone().into_bytes());
            if fs::read(&to).ok().as_ref() != Some(&bytes) {
                fs::create_dir_all(to.parent().expect("it has a folder")).unwrap();
                fs::write(&to, bytes).unwrap();
            }
            seen.insert(to);
        }
    }
    // Cargo adapts it to the other version.
    let lock = copy.join("Cargo.lock");
    if folder == root && !lock.exists() {
        fs::copy(root.join("Cargo.lock"), &lock).unwrap();
    }
    seen.insert(lock);
}

/// Removes what the sources do not have any more.
fn remove_others(folder: &Path, seen: &BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            remove_others(&path, seen);
        } else if !seen.contains(&path) {
            fs::remove_file(path).unwrap();
        }
    }
}

/// The copy's programs.
struct Built {
    /// The tests: `it` and `lib`.
    tests: BTreeMap<&'static str, PathBuf>,
    arc: PathBuf,
    copy: PathBuf,
}

/// Builds the copy with the features of this binary.
fn build(target: &Path, copy: &Path) -> Built {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--release", "--offline", "--no-run", "--lib", "--test", "it", "--message-format", "json"]);
    if !cfg!(feature = "bundled") {
        cargo.arg("--no-default-features");
    }
    // Dependencies are those that were built for the tests themselves; the program `arc` must not take its place.
    cargo.env("CARGO_BUILD_BUILD_DIR", target).env("CARGO_TARGET_DIR", target.join("mutants"));
    // What Cargo says of this package is not so of others, whose build scripts would run again for it.
    #[allow(clippy::disallowed_methods, reason = "a look at what Cargo set")]
    let of_this_package = std::env::vars_os().map(|(name, _)| name);
    for name in of_this_package
        .filter(|name| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|p| name.to_string_lossy().starts_with(p)))
    {
        cargo.env_remove(name);
    }
    let built = cargo.current_dir(copy).stderr(Stdio::inherit()).output().unwrap();
    assert!(built.status.success(), "the copy with the mutations cannot be built");
    let (mut tests, mut arc) = (BTreeMap::new(), None);
    for line in String::from_utf8(built.stdout).unwrap().lines() {
        let message: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(program) = message["executable"].as_str().map(PathBuf::from) {
            match (message["profile"]["test"] == true, message["target"]["kind"][0].as_str()) {
                (true, Some("lib")) => drop(tests.insert("lib", program)),
                (true, _) => drop(tests.insert("it", program)),
                (false, _) => arc = Some(program),
            }
        }
    }
    assert_eq!(tests.len(), 2, "{tests:?}");
    Built { tests, arc: arc.expect("the program is built for its tests"), copy: copy.to_owned() }
}

impl Built {
    /// Those of the tests that do not pass: each in a process of its own, because one that dies or hangs, which is noticing, too,
    /// says nothing about the others.
    fn failing(&self, tests: &[&'static str]) -> Vec<&'static str> {
        let passes = |test: &str| {
            let (binary, name) = test.split_once(' ').expect("binary and test");
            let mut command = Command::new(&self.tests[binary]);
            command.args(["--exact", name]).current_dir(&self.copy);
            command.env_remove("ARC_MUTANTS").env("ARC_SIM_SEEDS", SEEDS);
            // A test that is skipped for want of a tool catches nothing.
            command.env("ARC_REQUIRE_STRACE", "1").env("ARC_REQUIRE_OBJECT_STORES", "1");
            command.env("CARGO_MANIFEST_DIR", &self.copy).env("CARGO_BIN_EXE_arc", &self.arc);
            output(command).lines().any(|line| line == format!("test {name} ... ok"))
        };
        tests.iter().filter(|test| !passes(test)).copied().collect()
    }
}

/// What a command says until it ends or its time is over.
fn output(mut command: Command) -> String {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = child.stdout.take().expect("it is piped");
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.read_to_end(&mut bytes);
        let _ = send.send(bytes);
    });
    let said = receive.recv_timeout(LIMIT);
    let _ = child.kill();
    child.wait().unwrap();
    String::from_utf8_lossy(&said.unwrap_or_default()).into_owned()
}
