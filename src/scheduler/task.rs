//! The scheduler's task: looks at the switch and at the clock, starts cycles, owns the one that runs, survives itself.

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::timing::Next;
use super::{LOG, Shared, lock, switches};
use crate::compaction::{CycleError, CycleReport, Reach, RunningCycle, Scope};

/// The longest wait between two looks at the clock.
const LOOK: Duration = Duration::from_secs(30);
/// The same while a cycle runs, which a pause by another process must reach.
const LOOK_WHILE_WORKING: Duration = Duration::from_secs(5);
/// From a panic of the task to its next start.
const BACK_AFTER: Duration = Duration::from_mins(1);
/// The same as [`LOOK`] while a due cycle waits for one that was started past this scheduler, whose end nobody reports.
const LOOK_FOR_TURN: Duration = Duration::from_secs(1);

pub(super) struct Task {
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<RunningCycle>,
    abandon: CancellationToken,
    /// How many schedules there are.
    schedules: usize,
    /// Schedules that were due and have not had their cycle.
    pending: BTreeSet<String>,
    /// The cycle that runs; for a moment also the one before.
    cycles: JoinSet<Ended>,
    announced: Option<Next>,
}

/// What is left of a cycle.
struct Ended {
    cycle_id: String,
    /// For whom it ran; empty when by hand.
    schedules: BTreeSet<String>,
    outcome: Result<CycleReport, String>,
}

impl Task {
    pub(super) fn new(
        shared: Arc<Shared>,
        inbox: mpsc::Receiver<RunningCycle>,
        abandon: CancellationToken,
        schedules: usize,
    ) -> Self {
        let (pending, cycles) = (BTreeSet::new(), JoinSet::new());
        Self { shared, inbox, abandon, schedules, pending, cycles, announced: None }
    }

    /// Until the stop. A panic, which is a mistake of ours, costs a minute: a service that nobody looks at must not do
    /// nothing for weeks (T37).
    pub(super) async fn run(mut self) {
        while let Err(panic) = AssertUnwindSafe(self.work()).catch_unwind().await {
            self.shared.dead.store(true, Ordering::Release);
            let panic = panic_text(&*panic);
            error!(target: LOG, panic, "The compaction scheduler was ended by a panic, which is a mistake in this program; \
                it starts again in {} s: {panic}", BACK_AFTER.as_secs());
            tokio::select! {
                () = self.shared.stop.cancelled() => {}
                () = tokio::time::sleep(BACK_AFTER) => {}
            }
            self.shared.dead.store(false, Ordering::Release);
        }
    }

    async fn work(&mut self) {
        loop {
            let stop = self.shared.stop.clone();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = self.shared.follow() => {}
            }
            let wait = self.look();
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => break,
                Some(cycle) = self.inbox.recv() => self.run_cycle(cycle, BTreeSet::new()),
                Some(ended) = self.cycles.join_next() => self.ended(ended),
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.inbox.close();
        while let Ok(cycle) = self.inbox.try_recv() {
            // Its caller has its id. Its token is cancelled, so it ends at once, and properly.
            self.run_cycle(cycle, BTreeSet::new());
        }
        loop {
            tokio::select! {
                ended = self.cycles.join_next() => match ended {
                    Some(ended) => self.ended(ended),
                    None => break,
                },
                () = self.abandon.cancelled() => break self.cycles.shutdown().await,
            }
        }
    }

    /// Starts what is due. Returns how long to wait for the next look.
    fn look(&mut self) -> Duration {
        let now = self.shared.manager.clock().now();
        let (due, next) = {
            let mut timing = lock(&self.shared.timing);
            let timing = timing.as_mut().expect("set before the task starts");
            (timing.look(now), timing.next(now))
        };
        let came_round = !due.is_empty();
        self.pending.extend(due);
        let mut wait = LOOK;
        if let Err(obstacle) = self.start_pending(now) {
            if came_round {
                info!(target: LOG, at = %now.format("%FT%TZ"), "Scheduled compaction waits: {obstacle}");
            }
            if self.cycles.is_empty() && obstacle != CycleError::Paused {
                wait = LOOK_FOR_TURN;
            }
        }
        if !self.cycles.is_empty() {
            wait = wait.min(LOOK_WHILE_WORKING);
        }
        if let Some(next) = &next {
            wait = wait.min((next.at - now).to_std().unwrap_or_default());
        }
        self.announce(next, now);
        wait
    }

    /// Starts one cycle for every schedule that was due.
    fn start_pending(&mut self, now: DateTime<Utc>) -> Result<(), CycleError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        // With all of them due it is an ordinary cycle over everything.
        let schedules = Some(self.pending.clone()).filter(|due| due.len() < self.schedules);
        let scope = Scope { schedules, reach: Reach::RecentUnlessDue, ..Scope::default() };
        let cycle = self.shared.manager.start_cycle(scope, self.shared.stop.child_token())?;
        let due = std::mem::take(&mut self.pending);
        let names: Vec<&str> = due.iter().map(String::as_str).collect();
        info!(target: LOG, at = %now.format("%FT%TZ"), cycle_id = cycle.cycle_id, schedules = names.join("; "),
            "Triggering scheduled compaction at {}", now.format("%FT%T"));
        self.run_cycle(cycle, due);
        Ok(())
    }

    fn run_cycle(&mut self, cycle: RunningCycle, schedules: BTreeSet<String>) {
        let RunningCycle { cycle_id, run } = cycle;
        let (shared, now) = (Arc::clone(&self.shared), self.shared.manager.clock().now());
        *lock(&shared.last_run) = Some(now);
        self.cycles.spawn(async move {
            if let Err(error) = switches::ran(&shared.state, now).await {
                warn!(target: LOG, cycle_id, %error, "The time of this cycle could not be kept");
            }
            let outcome = AssertUnwindSafe(run).catch_unwind().await.map_err(|payload| panic_text(&*payload));
            Ended { cycle_id, schedules, outcome }
        });
    }

    fn ended(&mut self, ended: Result<Ended, JoinError>) {
        match ended {
            Ok(Ended { outcome: Ok(report), schedules, .. }) => {
                if report.candidates_left > 0 && self.shared.manager.is_paused() {
                    self.pending.extend(schedules);
                }
            }
            Ok(Ended { cycle_id, outcome: Err(panic), .. }) => {
                error!(target: LOG, cycle_id, panic, "The compaction cycle was ended by a panic, which is a mistake in \
                    this program; the schedule goes on: {panic}");
            }
            Err(error) => error!(target: LOG, %error, "The compaction cycle ended without a report"),
        }
    }

    /// Says when the next tick is, once.
    fn announce(&mut self, next: Option<Next>, now: DateTime<Utc>) {
        if next == self.announced {
            return;
        }
        if let Some(Next { at, schedules }) = &next {
            let seconds = ((*at - now).num_milliseconds() + 500) / 1_000;
            let names: Vec<&str> = schedules.iter().map(String::as_str).collect();
            info!(target: LOG, next_run = %at.format("%FT%TZ"), wait_seconds = seconds, schedules = names.join("; "),
                "Next compaction scheduled for {} ({seconds}s from now)", at.format("%F %T"));
        } else {
            warn!(target: LOG, "No schedule ever fires again: compaction runs only when it is triggered");
        }
        self.announced = next;
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message").to_owned()
}
