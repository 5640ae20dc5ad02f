//! A clock that is set, backwards or forwards, while a job runs: before each of its effects in turn. Time decides when to
//! work and how long a lease lasts, never what counts. The scheduler's side of this is in `scheduler.rs`.

use std::sync::Arc as Shared;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc::clock::{Clock, ManualClock, SystemClock};
use arc::compaction::Scope;
use arc::merge::DuckDbEngine;
use chrono::TimeDelta;
use object_store::Result;
use object_store::path::Path as Key;
use tokio_util::sync::CancellationToken;

use super::finishes_the_work;
use crate::support::stores::{Hook, manager_at};
use crate::support::{Arc, PARTITION, again, block_on};

/// Sets the clock before effect `at`.
#[derive(Debug)]
struct Jump {
    at: usize,
    by: TimeDelta,
    clock: Shared<ManualClock>,
    effects: AtomicUsize,
}

impl Hook for Jump {
    fn before(&self, number: usize, _: &str, _: &Key) -> Result<()> {
        self.effects.fetch_max(number + 1, Ordering::SeqCst);
        if number == self.at {
            self.clock.advance(self.by);
        }
        Ok(())
    }

    fn after(&self, _: usize, _: &str, _: &Key) -> Result<()> {
        Ok(())
    }
}

#[test]
fn a_clock_set_while_a_job_runs_costs_at_most_that_attempt_and_repeats_no_work() {
    let jumps = [TimeDelta::days(-400), TimeDelta::hours(-3), TimeDelta::days(30)];
    for by in again::each(jumps, |by| format!("{}h", by.num_hours())) {
        let mut at = 0;
        loop {
            let arc = Arc::new();
            arc.write_telemetry(PARTITION, 3, 20);
            let rows = arc.rows(PARTITION);
            let clock = Shared::new(ManualClock::at(SystemClock.now() + TimeDelta::hours(1)));
            let jump = Shared::new(Jump { at, by, clock: Shared::clone(&clock), effects: AtomicUsize::default() });
            let manager = manager_at(
                &arc.config_file(),
                Shared::clone(&jump) as _,
                Shared::new(DuckDbEngine),
                Shared::clone(&clock) as _,
            );
            let cycle = || block_on(manager.run_compaction_cycle(Scope::default(), CancellationToken::new())).unwrap();

            let first = cycle();
            assert_eq!(arc.rows(PARTITION), rows, "set by {by} before effect {at}: {first:#?}");
            // A file from the future may be written to still, so while the clock is wrong the work may wait.
            clock.advance(-by);
            let second = cycle();
            assert_eq!(
                first.jobs_completed + second.jobs_completed,
                1,
                "set by {by} before effect {at}: {first:#?} {second:#?}"
            );
            let effects = jump.effects.load(Ordering::SeqCst);
            assert_eq!(arc.rows(PARTITION), rows, "set by {by} before effect {at}");
            let state = arc.storage_state();
            assert_eq!(cycle().jobs_completed, 0, "I6");
            assert_eq!(arc.storage_state(), state, "I6");
            drop(manager);
            finishes_the_work(&arc, &rows);
            at += 1;
            if at >= effects {
                assert!(effects > 5, "only {effects} effects");
                break;
            }
        }
    }
}
