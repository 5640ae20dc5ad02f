//! Deterministic simulation: the real manager, jobs, recovery, tidying, locks and readers of several machines, in one
//! thread with virtual time, while everything goes wrong that can; and after every effect it is checked that no row is
//! lost or doubled.
//!
//! ```text
//! fate (one seed) ──> wire ──> storage in memory · state in SQLite in memory · leases in either · a merge of numbered rows
//!   which call goes on next,       │
//!   what goes wrong with it        └──> truth: the invariants, after every change
//! ```
//!
//! What goes wrong: answers that are lost, requests refused, 412 after success, bursts of 503, slow calls and slow answers,
//! stale reads, listings that fail on a later page, batches of deletions that break in the middle, requests that are
//! carried out after their caller has died, a busy lock or state database, merges that die, crashes at every call, workers
//! that freeze for longer than their lease and go on, clocks that disagree and jump. Meanwhile files come in, late ones and
//! damaged ones too, somebody removes files that are just being merged, and readers look, some of them so slowly that there is a
//! commit between two pages of their listing.
//!
//! And no panic of the product's is swallowed, and nobody fails without a fault of theirs or a change of what they are at, of
//! which their own is one.
//!
//! The same seed gives the same time line, byte for byte. `just sim SEED` shows one (`ARC_ONLY`). `ARC_SIM_SEEDS` and
//! `ARC_SIM_FIRST` say how many are run, and from where on.
//!
//! Not here: local disk (staging folders, links, fsync), which the crash suites with the real program cover, and the real
//! merge, which has suites of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

mod clock;
mod engine;
mod excuse;
mod fate;
pub mod machine;
mod panics;
mod reader;
mod rest;
pub mod rows;
mod store;
mod timeline;
pub mod truth;
mod weather;
pub mod wire;
pub mod world;

use fate::{Fate, Outcome};
use panics::Panics;
use world::Planted;

use crate::support::again::{self, asked_number};

/// What CI runs.
const SEEDS: u64 = 2_000;

fn simulate_with(seed: u64, planted: Planted) -> Outcome {
    let panics = Panics::default();
    let _watched = panics.watch_here();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let on_other_threads = panics.clone();
    runtime.enable_all().start_paused(true).on_thread_start(move || on_other_threads.watch());
    let runtime = runtime.build().unwrap();
    runtime.block_on(async { Fate::new(seed, planted, panics).run(seed).await })
}

fn simulate(seed: u64) -> Outcome {
    simulate_with(seed, Planted::Nothing)
}

#[test]
fn no_seed_loses_or_doubles_a_row() {
    let (first, seeds) = match asked_number(again::ONLY) {
        Some(seed) => (seed, 1),
        None => (asked_number("ARC_SIM_FIRST").unwrap_or(0), asked_number("ARC_SIM_SEEDS").unwrap_or(SEEDS)),
    };
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let started = Instant::now();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let run = || {
        let mut totals = Totals::default();
        while !failed.load(Ordering::SeqCst) {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= first + seeds {
                break;
            }
            let _here = again::at(&seed);
            let outcome = simulate(seed);
            failed.fetch_or(outcome.broken.is_some(), Ordering::SeqCst);
            totals.add(outcome);
        }
        totals
    };
    let totals = again::together((0..threads).map(|_| run)).into_iter().fold(Totals::default(), Totals::join);
    if let Some(outcome) = &totals.failed {
        let _here = again::at(&outcome.seed);
        let broken = outcome.broken.as_deref().unwrap_or_default();
        panic!("{}\nseed {}, drawn by `just sim {1}`: {broken}", outcome.time_line, outcome.seed);
    }
    totals.print(seeds, started.elapsed().as_secs_f64());
    if seeds >= 500 {
        totals.assert_enough();
    }
}

/// Replays one seed and shows it.
#[test]
#[allow(clippy::print_stdout, reason = "what a person asked for")]
fn one_seed() {
    let asked = asked_number(again::ONLY);
    let outcome = simulate(asked.unwrap_or(1));
    if asked.is_some() {
        println!("{}{:#?} {:#?}", outcome.time_line, outcome.past, outcome.faults);
    }
    assert_eq!(outcome.broken, None, "seed {}", outcome.seed);
}

#[test]
fn the_same_seed_gives_the_same_time_line() {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    again::each_at_once(threads, 0..100, u64::to_string, |seed| {
        let (once, again) = (simulate(seed), simulate(seed));
        assert!(once.time_line == again.time_line, "seed {seed}:\n{}\n{}", once.time_line, again.time_line);
        assert_eq!((once.faults, once.good_looks), (again.faults, again.good_looks), "seed {seed}");
    });
}

/// The simulation finds every error that is built into its own side of the seams.
/// T4, T67: among them a merge that names a file it left out, and a create that says what is not so.
#[test]
#[allow(clippy::print_stdout, reason = "the figures are for people who run this with --nocapture")]
fn every_planted_error_is_found() {
    let errors = [
        (Planted::CreateOverwrites, "I7"),
        (Planted::CreateLies, "T67"),
        (Planted::ListHidesPages, "I"),
        (Planted::MergeLosesRow, "I1"),
        (Planted::MergeDoublesRow, "I1"),
        (Planted::MergeRetiresUnread, "I1"),
        (Planted::MergeDoesNotSort, "I8"),
        (Planted::SwapOverwrites, "lease"),
        (Planted::DeleteTakesNeighbour, "I"),
        (Planted::ErrorsAreAbsence, "I"),
        (Planted::JobPanics, "panic"),
        (Planted::CyclePanics, "panic"),
        (Planted::ReaderPanics, "panic"),
        (Planted::LooksFail("r"), "no excuse: r"),
        (Planted::LooksFail("v"), "false alarm"),
        (Planted::LooksFail("w"), "no excuse: a cycle of w"),
    ];
    for (planted, invariant) in again::each(errors, |(planted, _)| format!("{planted:?}")) {
        let found = again::silently(|| {
            (0..400).map(|seed| simulate_with(seed, planted)).find(|outcome| outcome.broken.is_some())
        });
        let outcome = found.unwrap_or_else(|| panic!("nobody notices {planted:?}"));
        let broken = outcome.broken.unwrap_or_default();
        println!("{planted:?}: seed {}: {}", outcome.seed, broken.lines().next().unwrap_or_default());
        assert!(broken.starts_with(invariant), "{planted:?}: {broken}");
    }
}

/// I7: leases save work; correctness rests on records.
#[test]
fn locks_that_are_granted_to_everybody_cost_no_row() {
    for seed in again::each(0..100, u64::to_string) {
        let outcome = simulate_with(seed, Planted::LocksAlwaysGrant);
        assert_eq!(outcome.broken, None, "{}\nseed {seed}, every lease granted", outcome.time_line);
    }
}

/// Sums over many seeds.
#[derive(Debug, Default)]
struct Totals {
    steps: usize,
    effects: u64,
    commits: u64,
    voids: u64,
    with_live_before: u64,
    deletions: u64,
    good_looks: u64,
    faults: BTreeMap<&'static str, u64>,
    failed: Option<Box<Outcome>>,
}

impl Totals {
    fn add(&mut self, outcome: Outcome) {
        self.steps += outcome.steps;
        self.effects += outcome.effects;
        self.commits += outcome.past.commits;
        self.voids += outcome.past.voids;
        self.with_live_before += outcome.past.with_live_before;
        self.deletions += outcome.past.deletions;
        self.good_looks += outcome.good_looks;
        for (fault, count) in &outcome.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        if outcome.broken.is_some() {
            self.failed = Some(Box::new(outcome));
        }
    }

    fn join(mut self, other: Self) -> Self {
        self.steps += other.steps;
        self.effects += other.effects;
        self.commits += other.commits;
        self.voids += other.voids;
        self.with_live_before += other.with_live_before;
        self.deletions += other.deletions;
        self.good_looks += other.good_looks;
        for (fault, count) in other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        self.failed = self.failed.or(other.failed);
        self
    }

    #[allow(
        clippy::print_stdout,
        clippy::cast_precision_loss,
        reason = "figures for people who run this with --nocapture"
    )]
    fn print(&self, seeds: u64, seconds: f64) {
        println!(
            "{seeds} seeds in {seconds:.1} s ({:.0} a second): {} calls, {} effects, {} commits ({} beside earlier ones), \
             {} voids, {} deletions, {} good looks of readers",
            seeds as f64 / seconds,
            self.steps,
            self.effects,
            self.commits,
            self.with_live_before,
            self.voids,
            self.deletions,
            self.good_looks
        );
        for (fault, count) in &self.faults {
            println!("{count:>9} {fault}");
        }
    }

    /// A simulation in which nothing happens finds nothing.
    fn assert_enough(&self) {
        for (what, count) in [
            ("commits", self.commits),
            ("commits beside earlier ones", self.with_live_before),
            ("voids", self.voids),
            ("deletions", self.deletions),
            ("looks of readers", self.good_looks),
        ] {
            assert!(count >= 100, "only {count} {what}");
        }
        for fault in FAULTS {
            let count = self.faults.get(fault).copied().unwrap_or_default();
            assert!(count >= 20, "{fault}: only {count} times");
        }
    }
}

/// Everything that goes wrong in enough simulations, other than with the few uploads in parts.
const FAULTS: [&str; 25] = [
    "burst of 503",
    "child died",
    "clock jump",
    "crash",
    "create refused",
    "create: 412 after success",
    "create: answer lost",
    "delete refused",
    "delete: answer lost",
    "file removed by others",
    "lease refused",
    "lease: 412 after success",
    "lease: answer lost",
    "list failed",
    "list failed on a later page",
    "locks busy",
    "locks: answer lost",
    "read refused",
    "request for nobody",
    "slow answer",
    "slow call",
    "stale read",
    "state busy",
    "state: answer lost",
    "worker that slept through its lease",
];
