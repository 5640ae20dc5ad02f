//! Every failure says what to run to see it again: this binary is started on a test that fails when it is asked to, and then
//! once more with what that printed.

use std::process::Command;

use crate::support::again::{self, ONLY, SAYS};

/// How [`fails_if_asked`] is to fail.
const HOW: &str = "ARC_TEST_FAILS";

/// Not a test of its own. Does nothing unless it is asked to fail.
#[test]
fn fails_if_asked() {
    let Some(how) = again::asked(HOW) else { return };
    let points = ["first", "it's the 2nd", "third"];
    let fail = |point: &str| assert_ne!(point, points[1], "failed as asked");
    let name = |point: &&str| point.to_string();
    match how.as_str() {
        "at once" => panic!("failed as asked"),
        "at a point" => again::each(points, name).for_each(fail),
        "at a point of a helper" => again::each_at_once(2, points, name, fail),
        "in a helper" => std::thread::scope(|scope| scope.spawn(|| panic!("failed as asked")).join().unwrap()),
        "after the points" => {
            again::each(points, name).for_each(drop);
            panic!("failed as asked");
        }
        "after a panic that was caught" => {
            again::silently(|| std::panic::catch_unwind(|| panic!("not this"))).unwrap_err();
            panic!("failed as asked");
        }
        "in a child" => {
            let child = again::child("again::fails_if_asked").env(HOW, "at once").output().unwrap();
            println!("{}", String::from_utf8(child.stderr).unwrap());
            assert!(child.status.success(), "failed as asked");
        }
        "not at all" => again::silently(|| drop(std::panic::catch_unwind(|| panic!("not this")))),
        how => panic!("{HOW}={how}?"),
    }
}

/// Runs this binary with these variables and arguments. Whether it failed, and the lines that say how to see that again.
fn run(variables: &[(&str, &str)], arguments: &[&str]) -> (bool, Vec<String>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.env_remove(ONLY).envs(variables.iter().copied()).args(arguments).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() || said.contains("failed as asked"), "{said}");
    let lines = said.lines().filter_map(|line| line.strip_prefix(SAYS));
    (!output.status.success(), lines.map(str::to_owned).collect())
}

#[test]
fn a_failure_says_what_to_run_and_that_fails_in_the_same_way() {
    for (how, variables) in [
        ("at once", "ARC_TEST_FAILS='at once'"),
        ("at a point", r"ARC_ONLY='it'\''s the 2nd' ARC_TEST_FAILS='at a point'"),
        ("at a point of a helper", r"ARC_ONLY='it'\''s the 2nd' ARC_TEST_FAILS='at a point of a helper'"),
        ("in a helper", "ARC_TEST_FAILS='in a helper'"),
        ("after the points", "ARC_TEST_FAILS='after the points'"),
        ("after a panic that was caught", "ARC_TEST_FAILS='after a panic that was caught'"),
    ] {
        let options = if cfg!(debug_assertions) { "" } else { " --release" };
        let features = if cfg!(feature = "bundled") { "" } else { " --no-default-features" };
        let command = format!("cargo test{options}{features} --test it -- --exact again::fails_if_asked --nocapture");
        let expected = (true, vec![format!("{variables} {command}")]);
        // Among others, whose output is kept back, and alone.
        for arguments in [&["again::fails"][..], &["again::fails", "--nocapture", "--test-threads", "1"]] {
            assert_eq!(run(&[(HOW, how)], arguments), expected, "{how}: {arguments:?}");
        }
        // A shell takes it apart, and this binary stands for cargo.
        let script =
            format!("cargo() {{ while [ \"$1\" != -- ]; do shift; done; shift; \"$IT\" \"$@\"; }}; {}", expected.1[0]);
        let exe = std::env::current_exe().unwrap();
        let output = Command::new("sh").args(["-euc", &script]).env("IT", exe).env_remove(ONLY).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("failed as asked"), "{how}: {said}");
        assert!(said.lines().any(|line| line == format!("{SAYS}{}", expected.1[0])), "{how}: {said}");
    }
}

/// What panics in a part of a test that is a process of its own is a failure of the test.
#[test]
fn a_child_says_what_runs_its_parent() {
    let (failed, lines) = run(&[(HOW, "in a child")], &["again::fails"]);
    assert!(failed && lines.len() == 2 && lines[0] == lines[1], "{lines:#?}");
    assert!(lines[0].starts_with("ARC_TEST_FAILS='in a child' cargo test"), "{lines:#?}");
}

#[test]
fn a_panic_that_is_meant_to_be_caught_says_nothing() {
    assert_eq!(run(&[(HOW, "not at all")], &["again::fails", "--nocapture"]), (false, Vec::new()));
}

/// Who mistypes a point must not believe that it passes.
#[test]
fn a_point_that_does_not_exist_is_a_failure() {
    for how in ["at a point", "at a point of a helper"] {
        let points = || run(&[(HOW, how), (ONLY, "third")], &["again::fails"]);
        assert_eq!(points(), (false, Vec::new()), "only the second fails");
        let output = again::child("again::fails_if_asked").env(HOW, how).env(ONLY, "fourth").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("ARC_ONLY=fourth: there is no such point"), "{said}");
    }
}
