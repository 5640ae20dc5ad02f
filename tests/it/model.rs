//! The record protocol as a model that is searched exhaustively (`stateright`), with the functions that production code
//! decides by: `observe::compare`, `recovery::next_step` and `may_void`, `tidy::plan`, `policy::decide`, `snapshot::live_in`,
//! and the records that `Head::commit` and `Head::void` make, read back from their bytes.
//!
//! What happens: workers crash anywhere and start again, pause anywhere, creates and publications take effect late or
//! never, deletions fail, a late file arrives, a name is used again, records go as soon as they may (retention 0).
//!
//! What is bounded: two early files and a late one; one output an attempt; a worker's LIST is one page, the reader's two, in
//! either order. Not everything happens in one search (see [`Setup`]): two workers with two starts each are searched
//! without a reader, a reused name and very late writes; each of these with one start each, and with two and one if
//! `ARC_MODEL_FULL` is set.
//!
//! Whoever looks at a partition reads the head and then LISTs; or, in searches of their own, takes for the head what it saw
//! last or that there is none, as `observe_from` does, and then LISTs.
//!
//! What is not here: leases, because the protocol must hold when every lock fails; merging, proof and fsync; files of which
//! a look and a deletion see different ones, and a name used again while its record is being created: nothing helps
//! against those but that writers do not reuse names.
//!
//! Each rule that is switched off, one at a time, must give a counterexample: so the model can fail. One rule is not among them: that
//! a worker reads the head before it LISTs (J1). No counterexample was found without it, and no search that was exhausted
//! shows that there is none; the reader's same rule (S1) is among them.

#![allow(clippy::cast_possible_truncation, reason = "every number here is smaller than ten")]

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

mod protocol;
mod rules;
mod world;

use crate::support::again;
use protocol::{Protocol, Setup};
use rules::{MUTATIONS, Rule};

/// Searches all states, and says how many those were.
#[allow(clippy::print_stdout, reason = "the figures are for people who run this with --nocapture")]
fn holds(name: &str, setup: Setup) {
    let started = Instant::now();
    let checker = Protocol::new(setup, None).checker().threads(2).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {states} states, at most {depth} steps, {:.1} s", started.elapsed().as_secs_f64());
    checker.assert_properties();
}

/// With one start more, if somebody asks for the long search.
fn holds_in_bounds(name: &str, setup: Setup) {
    let larger = again::asked("ARC_MODEL_FULL").is_some();
    holds(name, if larger { setup.larger() } else { setup });
}

#[test]
fn two_workers_with_two_starts_each_lose_and_double_no_row() {
    holds("workers", Setup::WORKERS);
}

#[test]
fn a_name_that_is_used_again_costs_no_row() {
    holds_in_bounds("reused name", Setup::REUSED_NAME);
}

/// T23: a writer that was stopped long ago wins nothing.
#[test]
fn writes_may_take_effect_twice_and_below_the_head_and_tidying_may_be_skipped() {
    holds_in_bounds("very late writes", Setup::VERY_LATE);
}

#[test]
fn a_reader_with_a_paged_listing_sees_every_row_once() {
    holds_in_bounds("reader", Setup::READER);
}

/// J1, C1 for whoever takes for the head what it saw last, or that there is none, and lets the LIST tell (`observe_from`).
#[test]
fn a_worker_that_only_guesses_the_head_loses_and_doubles_no_row() {
    holds_in_bounds("guessed heads", Setup::GUESSES);
}

/// S1 in the same way.
#[test]
fn a_reader_that_only_guesses_the_head_sees_every_row_once() {
    holds_in_bounds("guessing reader", Setup::GUESSING_READER);
}

/// V2, T28. Such a folder may be stuck until a person has looked, but no row is destroyed.
#[test]
fn a_folder_restored_without_its_newest_record_keeps_every_row() {
    holds("lost record", Setup::LOST_RECORD);
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
