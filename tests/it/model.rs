//! The record protocol as a model that is searched exhaustively (`stateright`), with the functions that production code
//! decides by: `observe::compare`, `recovery::next_step` and `may_void`, `tidy::plan`, `policy::decide`, `snapshot::live_in`,
//! and the records that `Head::commit` and `Head::void` make.
//!
//! What is bounded: two workers, two starts each; two early files, a late one, a name that is used again; one output an
//! attempt; retention 0, so that records go as early as they can. A worker's LIST is one page, the reader's two.
//! What is not here: leases. The protocol must hold when every lock fails.
//!
//! Each rule that is switched off, one at a time, must give a counterexample: so the model can fail.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

mod protocol;
mod rules;
mod world;

use protocol::{Protocol, Setup};
use rules::MUTATIONS;

/// The number of states that were searched.
fn holds(name: &str, setup: Setup) -> usize {
    let started = Instant::now();
    let checker = Protocol::new(setup, None).checker().threads(2).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {states} states, {depth} steps deep, {:.1} s", started.elapsed().as_secs_f64());
    checker.assert_properties();
    states
}

#[test]
fn two_workers_with_two_starts_each_lose_and_double_no_row() {
    holds("workers", Setup::WORKERS);
}

#[test]
fn a_reader_with_a_paged_listing_sees_every_row_once() {
    holds("reader", Setup::READER);
}

#[test]
fn a_folder_restored_without_its_newest_record_keeps_every_row() {
    holds("lost record", Setup::LOST_RECORDS);
}

#[test]
fn every_rule_that_is_switched_off_gives_a_counterexample() {
    let mut failed = Vec::new();
    for (rule, setup, expected) in MUTATIONS {
        let started = Instant::now();
        let model = Protocol::new(setup, Some(rule));
        let checker = model.checker().finish_when(HasDiscoveries::AllOf([expected].into())).threads(1).spawn_bfs().join();
        let seconds = started.elapsed().as_secs_f64();
        match checker.discovery(expected) {
            Some(path) => {
                println!("{rule:?}: {expected} is violated after {} steps ({seconds:.1} s)", path.into_actions().len());
            }
            None => {
                let found: Vec<_> = checker.discoveries().into_keys().collect();
                println!("{rule:?}: {expected} holds; violated: {found:?} ({} states, {seconds:.1} s)",
                    checker.unique_state_count());
                failed.push(rule);
            }
        }
    }
    assert_eq!(failed, [], "the model does not need these rules");
}
