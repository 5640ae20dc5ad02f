//! The scheduler: runs a cycle whenever a schedule says so, or somebody asks for one.
//!
//! ```text
//!  trigger_now ──┐                    ┌─────────── one owned task ───────────┐
//!  pause/resume ─┼─> shared state ──> │ look at the clock ─> what is due ─┐  │ ──> manager.start_cycle
//!  stop ─────────┘                    │      ^                            v  │
//!                                     │      └── wait ≤ 30 s <── start or queue
//!                                     └──────────────────────────────────────┘
//! ```
//!
//! What must hold:
//! - After every wait the time is read anew, and no wait is long: a suspended machine or a clock that was set is noticed
//!   within half a minute. What is due then is decided in [`timing`], which is pure.
//! - A tick is never dropped because a cycle runs. It is remembered, by schedule, and however many ticks come meanwhile,
//!   exactly one further cycle follows, right after the running one, for all of their schedules together.
//! - While compaction is paused no job starts. Of the ticks of that time, and of a scheduled cycle that the pause cut
//!   short, one cycle is left, which starts with the resume. A pause outlives the process. It holds for this process at
//!   once, and for every other one on the same state database from the next cycle that it would start: the durable switch is
//!   looked at before each. A cycle that another process has running learns of it within five seconds.
//! - A cycle that panics ends itself and nothing else. A task that panics is started again after a minute, with what it had
//!   to do; until then it says that it is not running.
//!
//! Several servers may run the same schedule over the same data: leases keep their jobs apart, and a cycle that finds
//! nothing left to do does nothing.
//!
//! Deliberately not here: what a cycle does, and that only one runs at a time (`compaction::manager`); what cron means
//! (`schedule`).

mod switches;
mod task;
mod timing;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::compaction::{CompactionManager, CycleError, RunningCycle, Scope};
use crate::schedule::Schedule;
use crate::state::{StateDb, StateError};
use timing::Timing;

/// The logger of everything here.
const LOG: &str = "storage.compaction_scheduler";
/// The state database is waited for so long when it is asked for the switch.
const PATIENCE: Duration = Duration::from_secs(10);

/// When cycles run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulerSettings {
    /// `false`: no cycle is ever started.
    pub enabled: bool,
    /// Every schedule once; the first one is that of the service, the others are those of overrides.
    pub schedules: Vec<Schedule>,
    /// Whose wall clock the schedules follow.
    pub timezone: Tz,
}

/// Why a cycle was not started by hand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TriggerError {
    #[error("compaction is disabled: set compaction.enabled = true and restart")]
    Disabled,
    #[error("compaction is paused: resume it first")]
    Paused,
    #[error("a compaction cycle is already running ({cycle_id}): wait for its end")]
    AlreadyRunning { cycle_id: String },
    /// It was never started, was stopped, or has died and is not back yet.
    #[error("the compaction scheduler is not running: it is stopping, or its log says why")]
    Stopped,
}

/// How a stop went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stopped {
    /// Jobs that were still running when the time was over. The next cycle, here or elsewhere, settles what they left.
    pub abandoned_jobs: Vec<String>,
}

/// Starts cycles by schedule and by hand. Dropping it ends its task and the cycle that runs.
pub struct CompactionScheduler {
    settings: SchedulerSettings,
    shared: Arc<Shared>,
    /// Cycles that were started by hand, on their way to the task. One at most, as only one can have the turn.
    inbox: mpsc::Sender<RunningCycle>,
    /// Taken by the first start.
    outbox: Mutex<Option<mpsc::Receiver<RunningCycle>>>,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
    /// Cancelled when the grace of a stop is over.
    abandon: CancellationToken,
}

/// What the task and the handle both need.
struct Shared {
    manager: Arc<CompactionManager>,
    state: StateDb,
    /// `None` until started.
    timing: Mutex<Option<Timing>>,
    last_run: Mutex<Option<DateTime<Utc>>>,
    /// One look at or change of the durable switch after another, so that memory follows the database.
    switching: tokio::sync::Mutex<()>,
    /// The task has ended by a panic and is not back yet.
    dead: AtomicBool,
    /// Something other than the time has changed.
    wake: Notify,
    /// Parent of every cycle's token.
    stop: CancellationToken,
}

impl std::fmt::Debug for CompactionScheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompactionScheduler").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl CompactionScheduler {
    /// A scheduler that has not been started: this one schedule, for everything, in UTC. When `enabled` is `false` it never
    /// starts a cycle. What must outlive the process it keeps in the manager's state database.
    #[must_use]
    pub fn new(manager: Arc<CompactionManager>, schedule: Schedule, enabled: bool) -> Self {
        Self::with_settings(manager, SchedulerSettings { enabled, schedules: vec![schedule], timezone: Tz::UTC })
    }

    /// The same with a time zone and the schedules of overrides.
    #[must_use]
    pub fn with_settings(manager: Arc<CompactionManager>, settings: SchedulerSettings) -> Self {
        let (inbox, outbox) = mpsc::channel(1);
        let shared = Shared {
            state: manager.state().clone(),
            manager,
            timing: Mutex::default(),
            last_run: Mutex::default(),
            switching: tokio::sync::Mutex::default(),
            dead: AtomicBool::new(false),
            wake: Notify::new(),
            stop: CancellationToken::new(),
        };
        Self {
            settings,
            shared: Arc::new(shared),
            inbox,
            outbox: Mutex::new(Some(outbox)),
            task: Mutex::default(),
            abandon: CancellationToken::new(),
        }
    }

    /// Reads what is durable and starts the task, on the current runtime. Without effect when it was started before, or
    /// when compaction is disabled.
    ///
    /// A tick that passed before the start is not made up, unless it passed during a pause.
    ///
    /// # Errors
    /// When the state database cannot be read: whether compaction is paused is not to be guessed.
    pub async fn start(&self) -> Result<(), StateError> {
        if !self.settings.enabled {
            info!(target: LOG, "Compaction scheduler not started: compaction is disabled (compaction.enabled = false)");
            return Ok(());
        }
        let switches = switches::read(&self.shared.state).await?;
        let Some(outbox) = lock(&self.outbox).take() else { return Ok(()) };
        let now = self.shared.manager.clock().now();
        let since = match switches.paused {
            None => now,
            Some(paused) => {
                self.shared.manager.pause();
                paused.since.unwrap_or(now).min(now)
            }
        };
        let schedules = self.settings.schedules.clone();
        *lock(&self.shared.timing) = Some(Timing::new(schedules, self.settings.timezone, since));
        *lock(&self.shared.last_run) = switches.last_run;
        let all = switches::names(&self.settings.schedules);
        info!(target: LOG, schedule = self.schedule(), timezone = self.settings.timezone.name(), schedules = all,
            "Compaction scheduler started (schedule: {})", self.schedule());
        if self.is_paused() {
            warn!(target: LOG, since = %since.format("%FT%TZ"), "Compaction is paused, and starts no job until it is resumed");
        }
        let count = self.settings.schedules.len();
        let task = task::Task::new(Arc::clone(&self.shared), outbox, self.abandon.clone(), count);
        *lock(&self.task) = Some(AbortOnDropHandle::new(tokio::spawn(task.run())));
        Ok(())
    }

    /// Starts a cycle now, whatever the schedules say, and answers with its id while it runs.
    ///
    /// # Errors
    /// See [`TriggerError`].
    pub async fn trigger_now(&self, scope: Scope) -> Result<String, TriggerError> {
        if !self.settings.enabled {
            return Err(TriggerError::Disabled);
        }
        self.refresh().await;
        if !self.is_running() {
            return Err(TriggerError::Stopped);
        }
        let cycle = self.shared.manager.start_cycle(scope, self.shared.stop.child_token())?;
        let cycle_id = cycle.cycle_id.clone();
        // Refused only when a stop came in between; the cycle is dropped then, and with it its turn.
        self.inbox.try_send(cycle).map_err(|_| TriggerError::Stopped)?;
        Ok(cycle_id)
    }

    /// When the next scheduled cycle starts, if none is running then. `None`: never, or not as things are: disabled,
    /// stopped, paused.
    #[must_use]
    pub fn next_run(&self) -> Option<DateTime<Utc>> {
        if !self.is_running() || self.is_paused() {
            return None;
        }
        let now = self.shared.manager.clock().now();
        lock(&self.shared.timing).as_ref()?.next(now).map(|next| next.at)
    }

    /// When the last cycle started, scheduled or by hand, also before a restart. `None`: none ever did.
    #[must_use]
    pub fn last_run(&self) -> Option<DateTime<Utc>> {
        *lock(&self.shared.last_run)
    }

    /// From now on no job starts, until a resume. Running ones finish. Returns when this is durable.
    ///
    /// # Errors
    /// When the state database cannot be written; then nothing has changed.
    pub async fn pause(&self) -> Result<(), StateError> {
        let _one_after_another = self.shared.switching.lock().await;
        switches::pause(&self.shared.state, self.shared.manager.clock().now()).await?;
        if !self.is_paused() {
            self.shared.manager.pause();
            info!(target: LOG, "Compaction paused");
        }
        Ok(())
    }

    /// Ends a pause. If a tick passed meanwhile, one cycle starts now.
    ///
    /// # Errors
    /// When the state database cannot be written; then nothing has changed.
    pub async fn resume(&self) -> Result<(), StateError> {
        let _one_after_another = self.shared.switching.lock().await;
        switches::resume(&self.shared.state).await?;
        if self.is_paused() {
            self.shared.manager.resume();
            info!(target: LOG, "Compaction resumed");
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    /// Takes over a pause or a resume of another process on the same state database. When that cannot be read, what is
    /// known stays.
    pub async fn refresh(&self) {
        if self.shared.follow().await {
            self.shared.wake.notify_one();
        }
    }

    /// As far as this process knows; see [`CompactionScheduler::refresh`].
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.shared.manager.is_paused()
    }

    /// Whether the task is alive. `false` before the start, after a stop, when disabled, and while the task is dead.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let is_there = lock(&self.task).as_ref().is_some_and(|task| !task.is_finished());
        is_there && !self.shared.dead.load(Ordering::Acquire)
    }

    /// Whether compaction is enabled at all.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.settings.enabled
    }

    /// The schedule of the service, as it was written.
    #[must_use]
    pub fn schedule(&self) -> &str {
        self.settings.schedules.first().map_or("", Schedule::as_str)
    }

    #[must_use]
    pub fn timezone(&self) -> Tz {
        self.settings.timezone
    }

    /// Starts no further cycle, cancels the running one at its jobs' next safe points, and waits for it, for `grace` at
    /// most. A stopped scheduler cannot be started again.
    pub async fn stop(&self, grace: Duration) -> Stopped {
        self.shared.stop.cancel();
        let Some(mut task) = lock(&self.task).take() else { return Stopped::default() };
        if tokio::time::timeout(grace, &mut task).await.is_ok() {
            info!(target: LOG, "Compaction scheduler stopped");
            return Stopped::default();
        }
        let abandoned_jobs: Vec<String> = self.shared.manager.active_jobs().into_iter().map(|job| job.job_id).collect();
        warn!(target: LOG, grace_seconds = grace.as_secs_f64(), jobs = abandoned_jobs.join(", "),
            "Compaction scheduler stopped: {} jobs did not end in time and were abandoned", abandoned_jobs.len());
        self.abandon.cancel();
        // A panic of the task is no news to somebody who ends it.
        let _ = task.await;
        Stopped { abandoned_jobs }
    }
}

impl Shared {
    /// Makes the manager paused or not as the state database says. Whether something changed.
    async fn follow(&self) -> bool {
        let _one_after_another = self.switching.lock().await;
        let switches = match tokio::time::timeout(PATIENCE, switches::read(&self.state)).await {
            Ok(Ok(switches)) => switches,
            Ok(Err(error)) => {
                warn!(target: LOG, %error, "Whether compaction is paused cannot be read, so nothing changes: {error}");
                return false;
            }
            Err(_) => {
                warn!(target: LOG, "Whether compaction is paused was not answered in time, so nothing changes");
                return false;
            }
        };
        match (switches.paused.is_some(), self.manager.is_paused()) {
            (true, false) => {
                self.manager.pause();
                info!(target: LOG, "Compaction paused by another process");
            }
            (false, true) => {
                self.manager.resume();
                info!(target: LOG, "Compaction resumed by another process");
            }
            (true, true) | (false, false) => return false,
        }
        true
    }
}

impl Drop for CompactionScheduler {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl From<CycleError> for TriggerError {
    fn from(error: CycleError) -> Self {
        match error {
            CycleError::AlreadyRunning { cycle_id } => Self::AlreadyRunning { cycle_id },
            CycleError::Paused => Self::Paused,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
