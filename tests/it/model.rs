//! The record protocol as a model that is searched exhaustively (`stateright`), with the functions that production code
//! decides by: `observe::compare`, `recovery::next_step` and `may_void`, `tidy::plan`, `policy::decide`, `snapshot::live_in`,
//! and the records that `Head::commit` and `Head::void` make, read back from their bytes.
//!
//! What happens: workers crash anywhere and start again any number of times, pause anywhere, creates and publications take
//! effect late or never, deletions fail, late files arrive, a name is used again, records go as soon as they may (retention 0).
//!
//! What is bounded: two workers with two attempts at a merge each (one each for a guessing reader, two and one for very late
//! writes), three raw files, one output an attempt, LISTs of at most two pages, which may be cut in six ways. Not everything
//! happens in one search; see [`Setup`], and the tests for which search has what. All are exhausted; the largest are paged
//! listings (5.8 million states) and the reader (2.6 million), each within half a minute of CPU and 0.1 GB.
//! With `ARC_MODEL_FULL` set, two have an attempt more: workers 3+2 (4.0 million states) and a reused name with 3+2 (6.8
//! million), each within half a minute of CPU and 0.1 GB. Not exhausted: very late writes and a guessing reader with more than
//! what they have here, and histories with several of these at once.
//!
//! Whoever looks at a partition reads the head and then LISTs; or, in searches of their own, takes for the head what it saw
//! last or that there is none, as `observe_from` does, and then LISTs.
//!
//! What is not here: leases, because the protocol must hold when every lock fails; merging, proof and fsync; files of which
//! a look and a deletion see different ones, and a name used again while its record is being created: nothing helps
//! against those but that writers do not reuse names.
//!
//! A search that looks at fewer states than it did fails, and so does one in which something did not happen that should:
//! `sometimes` of states, and [`Witnessed`] of steps.
//!
//! Each rule that is switched off, one at a time, must give a counterexample: so the model can fail. Those of which that is
//! not so are in [`NOT_NEEDED`], with the reason and the tests of production code that need them. Two of the others need a LIST
//! of two pages, because one page together with the newest record on it is a snapshot: that the head is read before the LIST,
//! by workers (J1) and by readers (S1). Without J1: a late file arrives when its page has been listed; another worker merges
//! it, commits, and crashes before deleting it; its record and another late file are on the second page. A record made from that listing
//! does not retire the first late file, which no listing showed, and its rows count twice.

#![allow(clippy::cast_possible_truncation, reason = "every number here is smaller than ten")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

mod protocol;
mod rules;
mod setup;
mod state;
mod world;

use crate::support::again;
use protocol::{Protocol, Witnessed};
use rules::{MUTATIONS, NOT_NEEDED, Rule};
use setup::Setup;

/// Searches all states, at least so many, and says how many those were. A search that became smaller without anybody's
/// having wanted it finds less.
#[allow(clippy::print_stdout, reason = "the figures are for people who run this with --nocapture")]
fn holds(name: &str, setup: Setup, at_least: usize) {
    let started = Instant::now();
    // Depth first: then next to nothing waits to be looked at, and of a state that was seen eight bytes are remembered.
    let checker = Protocol::new(setup, None).checker().threads(2).spawn_dfs().join();
    let states = checker.unique_state_count();
    println!("{name}: {states} states, {:.1} s", started.elapsed().as_secs_f64());
    checker.assert_properties();
    assert!(states >= at_least, "{name}: only {states} states, and there were {at_least}");
    let Witnessed { handed_over, deletion_failed, several_records, gap, read } = &checker.model().witnessed;
    let happened = |what: &AtomicBool| what.load(Ordering::Relaxed);
    assert!(happened(handed_over), "{name}: nobody cleared away what another left that crashed after its commit");
    assert!(happened(deletion_failed), "{name}: no deletion failed");
    assert_eq!(happened(read), setup.reader, "{name}: whether a reader saw a partition with a head");
    assert_eq!(happened(several_records), setup.untidied, "{name}: whether there were several records to delete");
    assert!(happened(gap) || !setup.lost_record, "{name}: nobody saw a file far above the head");
}

/// With so many attempts, if somebody asks for the long search.
fn holds_with(name: &str, setup: Setup, attempts: [u8; 2], at_least: usize) {
    let long = again::asked("ARC_MODEL_FULL").is_some();
    holds(name, if long { setup.with_attempts(attempts) } else { setup }, at_least);
}

/// All three files arrive at any time, before or after whatever happens.
#[test]
fn two_workers_with_two_attempts_each_lose_and_double_no_row() {
    holds_with("workers", Setup::ALL_LATE, [3, 2], 199_973);
}

#[test]
fn a_name_that_is_used_again_costs_no_row() {
    holds_with("reused name", Setup::REUSED_NAME, [3, 2], 328_280);
}

/// T23: a writer that was stopped long ago wins nothing.
#[test]
fn writes_may_take_effect_twice_and_below_the_head_and_tidying_may_be_skipped() {
    holds("very late writes", Setup::VERY_LATE, 1_230_250);
}

/// J1 and C1 for LISTs that are no snapshots.
#[test]
fn workers_with_a_paged_listing_lose_and_double_no_row() {
    holds("paged listing", Setup::PAGED, 5_816_704);
}

#[test]
fn a_reader_with_a_paged_listing_sees_every_row_once() {
    holds("reader", Setup::READER, 2_578_922);
}

/// J1, C1 for whoever takes for the head what it saw last, or that there is none, and lets the LIST tell (`observe_from`).
#[test]
fn a_worker_that_only_guesses_the_head_loses_and_doubles_no_row() {
    holds("guessed heads", Setup::GUESSES, 294_850);
}

/// S1 in the same way.
#[test]
fn a_reader_that_only_guesses_the_head_sees_every_row_once() {
    holds("guessing reader", Setup::GUESSING_READER, 206_333);
}

/// V2, T28. Such a folder may be stuck until a person has looked, but no row is destroyed.
#[test]
fn a_folder_restored_without_its_newest_record_keeps_every_row() {
    holds("lost record", Setup::LOST_RECORD, 172_344);
}

/// C1. Such a folder may be stuck, too; what the file was made of stays.
#[test]
fn a_folder_without_a_file_that_counts_keeps_what_it_was_made_of() {
    holds("lost file", Setup::LOST_FILE, 153_142);
}

/// S4.
#[test]
fn a_reader_under_whom_files_vanish_begins_again_and_sees_every_row_once() {
    holds("vanishing files", Setup::VANISHING, 18_444);
}

/// T4, T19, T68, T69: what happened elsewhere is among the rules that are switched off.
#[test]
#[allow(clippy::print_stdout, reason = "the figures are for people who run this with --nocapture")]
fn every_rule_that_is_switched_off_gives_a_counterexample() {
    let mut not_needed = Vec::new();
    for (rule, setup, expected) in again::each(MUTATIONS, |(rule, ..)| format!("{rule:?}")) {
        if let Some(steps) = shortest_counterexample(rule, setup, expected) {
            println!("without {rule:?}: not so that {expected}, in {steps} steps");
        } else {
            println!("without {rule:?}: still {expected}");
            not_needed.push(rule);
        }
    }
    assert_eq!(not_needed, [], "the model does not need these rules");
}

/// What [`NOT_NEEDED`] says of them is so.
#[test]
#[allow(clippy::print_stdout, reason = "the figures are for people who run this with --nocapture")]
fn rules_that_the_model_does_not_need_have_no_counterexample() {
    for (rule, setup) in again::each(NOT_NEEDED, |(rule, _)| format!("{rule:?}")) {
        let checker = Protocol::new(setup, Some(rule)).checker().threads(2).spawn_dfs().join();
        println!("without {rule:?}: all holds in {} states", checker.unique_state_count());
        checker.assert_properties();
        let Witnessed { several_records, gap, .. } = &checker.model().witnessed;
        let matters = match rule {
            Rule::C4LowestFirst => several_records.load(Ordering::Relaxed),
            Rule::V2NoGap => gap.load(Ordering::Relaxed),
            _ => true,
        };
        assert!(matters, "{rule:?}: nothing happened where it would matter");
    }
}

/// Searches ever deeper: the checker alone keeps the last counterexample of several that it meets, not the first.
fn shortest_counterexample(rule: Rule, setup: Setup, expected: &'static str) -> Option<usize> {
    const MAX_STEPS: usize = 32;
    (1..=MAX_STEPS).find(|steps| {
        // A state is looked at if its depth is below the limit, and the first state has depth 1.
        let model = Protocol::new(setup, Some(rule)).checker().target_max_depth(steps + 2);
        let checker = model.finish_when(HasDiscoveries::AllOf([expected].into())).spawn_bfs().join();
        checker.discovery(expected).is_some_and(|path| {
            assert_eq!(path.into_actions().len(), *steps);
            true
        })
    })
}
