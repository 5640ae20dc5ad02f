//! The end of a simulation: the trouble is over, everybody is started anew, and once nothing is left to do everything has to be
//! as it was promised.

use std::sync::Arc;
use std::time::Duration;

use arc::clock::Clock as _;
use arc::compaction::{CycleReport, Scope};
use chrono::TimeDelta;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::fate::Fate;
use super::reader;
use super::weather::Weather;

/// Longer than any lease, wait, backoff or retention of the settings.
const LONG: Duration = Duration::from_hours(25);
/// Rounds of cycles that may pass until nothing is left to do.
const ROUNDS_TO_REST: usize = 16;
/// Calls of one cycle at rest: more means that it never ends.
const MAX_CALLS: usize = 20_000;

impl Fate {
    /// No more trouble. Everybody is started anew and works until nothing is left to do: I5, I6.
    pub(super) async fn come_to_rest(&mut self) {
        for (caller, task) in std::mem::take(&mut self.readers) {
            self.end(&caller, task).await;
        }
        for worker in 0..self.workers.len() {
            self.crash(worker).await;
        }
        self.settle().await;
        // The last requests of the dead arrive, or never will.
        for (call, _) in std::mem::take(&mut self.waiting) {
            self.carry_out(call);
        }
        self.answers.clear();
        for partition in &self.partitions {
            self.world.restore(partition);
        }
        self.weather = Weather::default();
        self.burst_until = Duration::ZERO;
        let mut reports = Vec::new();
        for _ in 0..ROUNDS_TO_REST {
            tokio::time::sleep(LONG).await;
            let before = self.world.changes();
            reports = Vec::new();
            for worker in 0..self.workers.len() {
                reports.push(self.cycle(worker).await);
                if self.world.broken().is_some() {
                    return;
                }
            }
            if self.world.changes() == before {
                self.check_rest(&reports);
                return self.check_verdict().await;
            }
        }
        self.world
            .truth()
            .breaks("I6", &format!("{ROUNDS_TO_REST} rounds, and still there is something to do: {reports:#?}"));
    }

    /// One cycle of a new start of the worker.
    async fn cycle(&mut self, worker: usize) -> Option<CycleReport> {
        let manager = self.start(worker);
        let cycle = async move { manager.run_compaction_cycle(Scope::default(), CancellationToken::new()).await };
        self.undisturbed(tokio::spawn(cycle)).await.map(Result::unwrap)
    }

    /// `arc verify` has nothing to say at rest.
    async fn check_verdict(&mut self) {
        let manager = self.start(0);
        let findings = self.undisturbed(tokio::spawn(async move { reader::findings(&manager).await })).await;
        for finding in findings.unwrap_or_default() {
            self.world.truth().breaks("I5", &format!("at rest: {finding:?}"));
        }
    }

    /// Everything that a task calls for is done, one after the other.
    async fn undisturbed<T>(&mut self, task: JoinHandle<T>) -> Option<T> {
        for _ in 0..MAX_CALLS {
            self.settle().await;
            if task.is_finished() {
                return Some(task.await.unwrap());
            }
            if self.waiting.is_empty() {
                let world = Arc::clone(&self.world);
                let _ = tokio::time::timeout(LONG, world.wire.came()).await;
            } else {
                let (call, _) = self.waiting.remove(0);
                self.carry_out(call);
            }
            if self.world.broken().is_some() {
                return None;
            }
        }
        self.world.truth().breaks("I11", "a cycle does not end");
        None
    }

    fn check_rest(&self, reports: &[Option<CycleReport>]) {
        for problem in reports.iter().flatten().flat_map(|report| &report.problems) {
            self.world.truth().breaks("I5", &format!("at rest, {}: {}", problem.place, problem.error));
        }
        self.world.check_rest(self.settings.partition.policy.min_files);
        // Those of the dead are there until somebody takes them, and hold nobody up.
        let today = self.world.clock.now() - TimeDelta::from_std(LONG / 2).unwrap();
        for (worker, _) in self.world.leases().into_iter().filter(|(_, written_at)| *written_at > today) {
            self.world.truth().breaks("I5", &format!("a lease of {worker} is left over"));
        }
        for machine in &self.machines {
            for left in machine.leases().into_iter().chain(machine.folders()) {
                self.world.truth().breaks("I5", &format!("{left} is left over"));
            }
        }
    }
}
