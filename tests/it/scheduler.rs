//! The scheduler over a real manager and real files, in tokio's paused time, with a clock that can be set.

use std::sync::{Arc as Shared, Mutex};
use std::time::Duration;

use arc::clock::Clock;
use arc::compaction::events::{Event, EventSink};
use arc::compaction::settings::Isolation;
use arc::compaction::{CompactionManager, CompactionSettings, Components, CycleReport, Scope};
use arc::config::{Config, Input};
use arc::lock::CompactionLock;
use arc::merge::DuckDbEngine;
use arc::merge::resources::{detect, job_limits};
use arc::scheduler::{CompactionScheduler, TriggerError};
use arc::state::StateDb;
use chrono::TimeDelta;
use tracing::Level;

use crate::support::gate::{Gate, Gated};
use crate::support::log::Log;
use crate::support::time::TokioClock;
use crate::support::{Arc, PARTITION};

const LOGGER: &str = "storage.compaction_scheduler";
const GRACE: Duration = Duration::from_mins(1);

/// A server's worth of compaction. The clock begins at half past three, and the schedule is the default one.
struct Server {
    arc: Shared<Arc>,
    state: StateDb,
    clock: Shared<TokioClock>,
    gate: Shared<Gate>,
    manager: Shared<CompactionManager>,
    scheduler: CompactionScheduler,
    past: Shared<Mutex<Past>>,
}

#[derive(Debug, Default)]
struct Past {
    /// When each cycle began.
    began: Vec<String>,
    ended: Vec<CycleReport>,
}

impl Server {
    fn new(settings: &str) -> Self {
        let arc = Shared::new(Arc::with(settings));
        let clock = Shared::new(TokioClock::at("2035-10-08 15:30:00"));
        Self::beside(&arc, &StateDb::in_memory().unwrap(), &clock, 1)
    }

    /// Another one on the same data and state.
    fn beside(arc: &Shared<Arc>, state: &StateDb, clock: &Shared<TokioClock>, seed: u64) -> Self {
        let config = Config::load(&Input { file: Some(arc.config_file()), ..Input::default() }).unwrap();
        let when = config.scheduler();
        let settings = CompactionSettings {
            isolation: Isolation::InProcess,
            temp_dir: arc.temp().join(seed.to_string()),
            ..config.compaction
        };
        let (gate, past) = (Shared::new(Gate::default()), Shared::new(Mutex::new(Past::default())));
        let (noted, told) = (Shared::clone(&past), Shared::clone(clock));
        let events = EventSink::new(move |event| match event {
            Event::CycleStarted { .. } => noted.lock().unwrap().began.push(told.now().format("%T").to_string()),
            Event::CycleFinished(report) => noted.lock().unwrap().ended.push(*report),
            _ => {}
        });
        let components = Components {
            storage: arc.storage().map_store(|inner| Gated::over(inner, &gate)),
            locks: Shared::new(CompactionLock::new(state.clone(), Shared::clone(clock) as Shared<dyn Clock>)),
            state: state.clone(),
            engine: Shared::new(DuckDbEngine),
            clock: Shared::clone(clock) as Shared<dyn Clock>,
            limits: job_limits(detect(), None, None, settings.max_concurrent_jobs),
            events,
            seed,
        };
        let manager = Shared::new(CompactionManager::new(components, settings));
        let scheduler = CompactionScheduler::with_settings(Shared::clone(&manager), when);
        Self {
            arc: Shared::clone(arc),
            state: state.clone(),
            clock: Shared::clone(clock),
            gate,
            manager,
            scheduler,
            past,
        }
    }

    /// The same after a restart.
    async fn restarted(self, seed: u64) -> Self {
        self.scheduler.stop(GRACE).await;
        Self::beside(&self.arc, &self.state, &self.clock, seed)
    }

    fn rows(&self, partition: &str) -> Vec<String> {
        outside(|| self.arc.rows(partition))
    }

    fn live(&self, partition: &str) -> usize {
        outside(|| self.arc.live(partition).len())
    }

    fn assert_nothing_left_over(&self, partition: &str) {
        outside(|| self.arc.assert_nothing_left_over(partition));
    }

    /// When each cycle began.
    fn began(&self) -> Vec<String> {
        self.past.lock().unwrap().began.clone()
    }

    fn next_run(&self) -> Option<String> {
        self.scheduler.next_run().map(|time| time.format("%F %T").to_string())
    }

    fn last_run(&self) -> Option<String> {
        self.scheduler.last_run().map(|time| time.format("%F %T").to_string())
    }
}

/// On a thread without a runtime: the helpers bring their own.
fn outside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_service_compacts_by_itself_at_the_next_tick_and_says_so_word_for_word() {
    let log = Log::capture();
    let server = Server::new("min_files = 2");
    server.arc.write_telemetry(PARTITION, 4, 100);
    let before = server.rows(PARTITION);
    assert_eq!((server.next_run(), server.last_run(), server.scheduler.is_running()), (None, None, false));

    server.scheduler.start().await.unwrap();
    server.scheduler.start().await.unwrap();

    assert!(server.scheduler.is_running());
    assert_eq!(server.next_run().as_deref(), Some("2035-10-08 16:05:00"));
    server.clock.reach("16:04:59").await;
    assert_eq!(server.began(), [""; 0]);
    server.clock.reach("17:04:00").await;
    assert_eq!(server.began(), ["16:05:00"]);
    assert_eq!(server.last_run().as_deref(), Some("2035-10-08 16:05:00"));
    assert_eq!(server.next_run().as_deref(), Some("2035-10-08 17:05:00"));
    assert_eq!(server.past.lock().unwrap().ended[0].jobs_completed, 1);
    assert_eq!(server.rows(PARTITION), before);
    server.assert_nothing_left_over(PARTITION);
    server.clock.reach("17:06:00").await;
    server.scheduler.stop(GRACE).await;
    assert_eq!(
        log.of(LOGGER),
        [
            "Compaction scheduler started (schedule: 5 * * * *)",
            "Next compaction scheduled for 2035-10-08 16:05:00 (2100s from now)",
            "Triggering scheduled compaction at 2035-10-08T16:05:00",
            "Next compaction scheduled for 2035-10-08 17:05:00 (3600s from now)",
            "Triggering scheduled compaction at 2035-10-08T17:05:00",
            "Next compaction scheduled for 2035-10-08 18:05:00 (3600s from now)",
            "Compaction scheduler stopped",
        ]
    );
    let lines = log.lines();
    let with = |field: &str| lines.iter().any(|line| line.fields.iter().any(|f| f == field));
    for field in [
        "schedule=\"5 * * * *\"",
        "timezone=\"UTC\"",
        "next_run=2035-10-08T16:05:00Z",
        "wait_seconds=2100",
        "at=2035-10-08T16:05:00Z",
    ] {
        assert!(with(field), "{field} in {lines:#?}");
    }
    assert!(!server.scheduler.is_running());
    assert_eq!(server.next_run(), None);
}

/// T36: a cycle that runs for hours swallows no tick and heaps up none.
#[tokio::test(start_paused = true)]
async fn ticks_during_a_cycle_become_exactly_one_further_cycle_right_after_it() {
    let log = Log::capture();
    let server = Server::new("");
    server.scheduler.start().await.unwrap();
    server.gate.close();
    server.gate.came(1).await;
    server.clock.reach("19:30:00").await;
    assert_eq!(server.began(), ["16:05:00"], "17:05, 18:05 and 19:05 wait");

    server.gate.open();

    server.clock.reach("20:04:00").await;
    assert_eq!(server.began(), ["16:05:00", "19:30:00"]);
    server.clock.reach("20:06:00").await;
    assert_eq!(server.began(), ["16:05:00", "19:30:00", "20:05:00"]);
    let waiting = log.of(LOGGER).iter().filter(|m| m.contains("waits: a compaction cycle is already running")).count();
    assert_eq!(waiting, 3);
}

/// T36: the other kind of cycle counts, too.
#[tokio::test(start_paused = true)]
async fn a_tick_during_a_cycle_started_by_hand_is_queued_whoever_started_it() {
    let server = Server::new("");
    server.scheduler.start().await.unwrap();
    server.gate.close();
    server.clock.reach("16:00:00").await;
    server.scheduler.trigger_now(Scope::default()).await.unwrap();
    server.clock.reach("16:30:00").await;
    server.gate.open();
    server.clock.reach("17:00:00").await;
    assert_eq!(server.began(), ["16:00:00", "16:30:00"]);

    // Started past the scheduler, so nobody tells it of the end.
    server.gate.close();
    let own = server.manager.start_cycle(Scope::default(), tokio_util::sync::CancellationToken::new()).unwrap();
    let own = tokio::spawn(own.run);
    server.clock.reach("17:30:00").await;
    server.gate.open();
    own.await.unwrap();
    server.clock.reach("17:30:02").await;
    assert_eq!(server.began().len(), 4, "{:?}", server.began());
    server.clock.reach("18:04:00").await;
    assert_eq!(server.began().len(), 4, "{:?}", server.began());
}

#[tokio::test(start_paused = true)]
async fn a_trigger_answers_while_its_cycle_runs_and_a_second_one_learns_of_the_first() {
    let server = Server::new("min_files = 2");
    server.arc.write_telemetry(PARTITION, 4, 100);
    assert_eq!(server.scheduler.trigger_now(Scope::default()).await, Err(TriggerError::Stopped));
    server.scheduler.start().await.unwrap();
    server.gate.close();

    let cycle_id = server.scheduler.trigger_now(Scope::default()).await.unwrap();

    assert_eq!(server.manager.running_cycle().as_ref(), Some(&cycle_id));
    let refused = server.scheduler.trigger_now(Scope::default()).await;
    assert_eq!(refused, Err(TriggerError::AlreadyRunning { cycle_id: cycle_id.clone() }));
    server.gate.came(1).await;
    assert!(server.past.lock().unwrap().ended.is_empty());
    server.gate.open();
    server.clock.pass(TimeDelta::minutes(1)).await;
    let past = server.past.lock().unwrap();
    assert_eq!((past.ended[0].cycle_id.as_str(), past.ended[0].jobs_completed), (cycle_id.as_str(), 1));
    assert_eq!(server.last_run().as_deref(), Some("2035-10-08 15:30:00"));
}

#[tokio::test(start_paused = true)]
async fn a_pause_stops_the_schedule_and_triggers_and_its_resume_makes_up_for_all_missed_ticks_at_once() {
    let server = Server::new("");
    server.scheduler.start().await.unwrap();
    server.scheduler.pause().await.unwrap();
    assert!(server.scheduler.is_paused() && server.scheduler.is_running());
    assert_eq!(server.scheduler.trigger_now(Scope::default()).await, Err(TriggerError::Paused));
    assert_eq!(server.next_run(), None);
    server.clock.reach("18:30:00").await;
    assert_eq!(server.began(), [""; 0]);

    server.scheduler.resume().await.unwrap();

    server.clock.reach("18:31:00").await;
    assert_eq!(server.began(), ["18:30:00"]);
    assert_eq!(server.next_run().as_deref(), Some("2035-10-08 19:05:00"));
    // Nothing was missed: nothing is made up.
    server.scheduler.pause().await.unwrap();
    server.clock.reach("18:40:00").await;
    server.scheduler.resume().await.unwrap();
    server.clock.reach("19:04:00").await;
    assert_eq!(server.began(), ["18:30:00"]);
    server.clock.reach("19:06:00").await;
    assert_eq!(server.began(), ["18:30:00", "19:05:00"]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_and_the_time_of_the_last_cycle_survive_a_restart() {
    let server = Server::new("");
    server.scheduler.start().await.unwrap();
    server.clock.reach("16:06:00").await;
    server.scheduler.pause().await.unwrap();
    let server = server.restarted(2).await;
    server.clock.reach("17:30:00").await;

    server.scheduler.start().await.unwrap();

    assert!(server.scheduler.is_paused());
    assert_eq!(server.last_run().as_deref(), Some("2035-10-08 16:05:00"));
    server.clock.reach("17:45:00").await;
    assert_eq!(server.began(), [""; 0]);
    // 17:05 passed while nobody ran, but during the pause.
    server.scheduler.resume().await.unwrap();
    server.clock.reach("17:46:00").await;
    assert_eq!(server.began(), ["17:45:00"]);
    let server = server.restarted(3).await;
    server.scheduler.start().await.unwrap();
    assert!(!server.scheduler.is_paused());
    assert_eq!(server.last_run().as_deref(), Some("2035-10-08 17:45:00"));
}

/// A cycle that takes its process down must not begin again with every start.
#[tokio::test(start_paused = true)]
async fn a_tick_before_the_start_is_not_made_up() {
    let server = Server::new("");
    server.scheduler.start().await.unwrap();
    let server = server.restarted(2).await;
    server.clock.reach("16:30:00").await;
    server.scheduler.start().await.unwrap();
    server.clock.reach("17:04:00").await;
    assert_eq!(server.began(), [""; 0]);
    server.clock.reach("17:06:00").await;
    assert_eq!(server.began(), ["17:05:00"]);
}

/// What the pause left of a scheduled cycle is not left until the next tick.
#[tokio::test(start_paused = true)]
async fn a_scheduled_cycle_that_a_pause_cut_short_is_completed_after_the_resume() {
    let server = Server::new("min_files = 2");
    server.arc.write_telemetry(PARTITION, 4, 100);
    server.scheduler.start().await.unwrap();
    server.gate.close();
    server.gate.came(1).await;
    server.scheduler.pause().await.unwrap();
    server.gate.open();
    server.clock.reach("16:30:00").await;
    assert_eq!(server.past.lock().unwrap().ended[0].candidates_left, 1);
    assert_eq!(server.live(PARTITION), 4);

    server.scheduler.resume().await.unwrap();

    server.clock.reach("16:31:00").await;
    assert_eq!(server.began(), ["16:05:00", "16:30:00"]);
    assert_eq!(server.live(PARTITION), 1);
}

#[tokio::test(start_paused = true)]
async fn a_disabled_scheduler_does_nothing_and_says_so() {
    let log = Log::capture();
    let server = Server::new("enabled = false");
    server.scheduler.start().await.unwrap();
    server.clock.reach("17:30:00").await;
    assert_eq!(server.began(), [""; 0]);
    assert_eq!(server.scheduler.trigger_now(Scope::default()).await, Err(TriggerError::Disabled));
    assert!(!server.scheduler.is_running() && !server.scheduler.is_enabled());
    assert_eq!(server.next_run(), None);
    assert!(log.of(LOGGER)[0].contains("compaction is disabled"), "{:?}", log.of(LOGGER));
    assert_eq!(server.scheduler.stop(GRACE).await.abandoned_jobs, [""; 0]);
}

/// I10.
#[tokio::test(start_paused = true)]
async fn a_cycle_that_panics_does_not_stop_the_schedule() {
    let log = Log::capture();
    let server = Server::new("");
    server.scheduler.start().await.unwrap();
    server.gate.panic_once();
    server.clock.reach("16:06:00").await;
    assert!(server.scheduler.is_running());
    assert_eq!(server.manager.running_cycle(), None);
    let errors: Vec<_> = log.lines().into_iter().filter(|line| line.level == Level::ERROR).collect();
    assert!(
        errors.iter().any(|line| line.message.ends_with("the schedule goes on: a scan that panics")),
        "{errors:#?}"
    );
    server.clock.reach("17:06:00").await;
    assert_eq!((server.began().len(), server.past.lock().unwrap().ended.len()), (2, 1));
}

/// T37: a server whose scheduler has died can tell, and is back without anybody's help.
#[tokio::test(start_paused = true)]
async fn a_dead_task_is_known_to_be_dead_and_starts_again_after_a_minute() {
    let log = Log::capture();
    let server = Server::new("");
    server.scheduler.start().await.unwrap();
    server.clock.break_it();
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert!(!server.scheduler.is_running());
    assert_eq!(server.scheduler.next_run(), None);
    assert_eq!(server.scheduler.trigger_now(Scope::default()).await, Err(TriggerError::Stopped));
    let errors: Vec<_> = log.lines().into_iter().filter(|line| line.level == Level::ERROR).collect();
    assert!(errors[0].message.ends_with("it starts again in 60 s: the clock is broken"), "{errors:#?}");

    server.clock.mend();

    server.clock.pass(TimeDelta::minutes(1)).await;
    assert!(server.scheduler.is_running());
    assert_eq!(server.next_run().as_deref(), Some("2035-10-08 16:05:00"));
    server.clock.reach("16:06:00").await;
    assert_eq!(server.began(), ["16:05:00"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_dead_task_to_come_back() {
    let server = Server::new("");
    server.scheduler.start().await.unwrap();
    server.clock.break_it();
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert!(!server.scheduler.is_running());
    let before = tokio::time::Instant::now();
    server.scheduler.stop(GRACE).await;
    assert!(before.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_pause_and_a_resume_hold_for_every_server_on_the_same_state() {
    let one = Server::new("min_files = 2");
    let two = Server::beside(&one.arc, &one.state, &one.clock, 2);
    one.scheduler.start().await.unwrap();
    two.scheduler.start().await.unwrap();
    one.clock.reach("16:04:59").await;

    one.scheduler.pause().await.unwrap();

    one.clock.reach("16:30:00").await;
    assert_eq!((one.began(), two.began()), (vec![], vec![]), "the tick of 16:05 waits in both");
    assert_eq!(two.scheduler.trigger_now(Scope::default()).await, Err(TriggerError::Paused));
    assert!(two.scheduler.is_paused() && two.next_run().is_none());

    two.scheduler.resume().await.unwrap();

    assert!(one.scheduler.trigger_now(Scope::default()).await.is_ok(), "a trigger looks for itself");
    one.clock.reach("16:31:00").await;
    assert!(!one.scheduler.is_paused());
    assert_eq!(two.began(), ["16:30:00"]);
}

/// Running jobs finish, and no other one starts, whichever server was asked.
#[tokio::test(start_paused = true)]
async fn a_pause_reaches_a_cycle_that_another_server_has_running() {
    let one = Server::new("min_files = 2");
    one.arc.write_telemetry(PARTITION, 4, 100);
    let two = Server::beside(&one.arc, &one.state, &one.clock, 2);
    one.scheduler.start().await.unwrap();
    one.gate.close();
    one.gate.came(1).await;
    two.scheduler.start().await.unwrap();
    two.scheduler.pause().await.unwrap();
    one.clock.pass(TimeDelta::seconds(6)).await;
    one.gate.open();
    one.clock.pass(TimeDelta::seconds(6)).await;
    assert_eq!(one.past.lock().unwrap().ended[0].candidates_left, 1);
    assert_eq!(one.live(PARTITION), 4);
}

#[tokio::test(start_paused = true)]
async fn a_switch_that_cannot_be_read_changes_nothing() {
    let log = Log::capture();
    let server = Server::new("");
    server.scheduler.start().await.unwrap();
    server.scheduler.pause().await.unwrap();
    server.state.write(|c| Ok(c.execute_batch("DROP TABLE service_switches")?)).await.unwrap();
    server.clock.reach("16:30:00").await;
    assert!(server.scheduler.is_paused());
    assert_eq!(server.began(), [""; 0]);
    assert!(log.warnings_and_errors().iter().any(|l| format!("{l:?}").contains("cannot be read, so nothing changes")));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_running_cycle_at_a_safe_point_and_starts_no_other() {
    let server = Server::new("min_files = 2");
    server.arc.write_telemetry(PARTITION, 4, 100);
    server.scheduler.start().await.unwrap();
    server.gate.close();
    server.gate.came(1).await;
    server.clock.reach("17:30:00").await;
    let gate = Shared::clone(&server.gate);
    let opener = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        gate.open();
    });

    let stopped = server.scheduler.stop(GRACE).await;

    opener.await.unwrap();
    assert_eq!(stopped.abandoned_jobs, [""; 0]);
    assert_eq!(server.clock.now().format("%T").to_string(), "17:30:05");
    assert_eq!(server.began(), ["16:05:00"], "the tick of 17:05 was waiting");
    assert_eq!(server.past.lock().unwrap().ended.len(), 1);
    assert_eq!(server.live(PARTITION), 4);
    assert!(!server.scheduler.is_running());
    assert_eq!(server.scheduler.trigger_now(Scope::default()).await, Err(TriggerError::Stopped));
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_no_longer_than_its_grace_and_gives_the_turn_back() {
    let server = Server::new("");
    server.scheduler.start().await.unwrap();
    server.gate.close();
    server.gate.came(1).await;
    server.scheduler.stop(Duration::from_secs(3)).await;
    assert_eq!(server.clock.now().format("%T").to_string(), "16:05:03");
    assert_eq!(server.manager.running_cycle(), None);
    assert!(server.past.lock().unwrap().ended.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_scheduler_that_is_dropped_leaves_nothing_running() {
    let server = Server::new("");
    server.scheduler.start().await.unwrap();
    server.gate.close();
    server.gate.came(1).await;
    let manager = Shared::clone(&server.manager);
    drop(server.scheduler);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(manager.running_cycle(), None);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_suspend_is_noticed_within_half_a_minute_and_its_ticks_are_one() {
    let server = Server::new("");
    server.scheduler.start().await.unwrap();
    server.clock.pass(TimeDelta::seconds(10)).await;
    server.clock.set(TimeDelta::hours(5));
    server.clock.reach("20:30:40").await;
    assert_eq!(server.began(), ["20:30:30"]);
    assert_eq!(server.next_run().as_deref(), Some("2035-10-08 21:05:00"));
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_neither_repeats_the_last_tick_nor_stops_the_schedule() {
    let server = Server::new("");
    server.scheduler.start().await.unwrap();
    server.clock.reach("16:05:01").await;
    server.clock.set(TimeDelta::seconds(-3));
    server.clock.reach("17:06:00").await;
    assert_eq!(server.began(), ["16:05:00", "17:05:00"]);
    // A year, back to where it should have been all the time.
    server.clock.set(TimeDelta::days(-365));
    server.clock.reach("18:06:00").await;
    server.clock.reach("19:06:00").await;
    assert_eq!(server.began(), ["16:05:00", "17:05:00", "18:05:00", "19:05:00"]);
    assert_eq!(server.next_run().as_deref(), Some("2034-10-08 20:05:00"));
}

const TWO_SCHEDULES: &str = "min_files = 2\n\
    [[compaction.override]]\ndatabase = 'staging'\nmeasurement = '*'\nschedule = '*/15 * * * *'\n\
    [[compaction.override]]\ndatabase = 'prod'\nmeasurement = 'cpu'\nschedule = '*/15 * * * *'\n";

#[tokio::test(start_paused = true)]
async fn a_cycle_lists_only_what_its_schedules_are_for_and_one_by_hand_everything() {
    let server = Server::new(TWO_SCHEDULES);
    for database in ["staging", "prod", "other"] {
        for measurement in ["cpu", "mem"] {
            server.arc.write_telemetry(&format!("{database}/{measurement}/2025/10/08/14"), 2, 10);
        }
    }
    server.scheduler.start().await.unwrap();
    assert_eq!(server.next_run().as_deref(), Some("2035-10-08 15:45:00"));
    let measurements = || -> Vec<String> {
        server
            .gate
            .listed()
            .into_iter()
            .filter(|path| path.matches('/').count() <= 1 && !path.starts_with('_'))
            .collect()
    };

    server.clock.reach("15:46:00").await;
    assert_eq!(measurements(), ["", "prod", "prod/cpu", "staging", "staging/cpu", "staging/mem"]);
    assert_eq!(server.past.lock().unwrap().ended[0].jobs_completed, 3);
    server.clock.reach("16:04:00").await;
    assert_eq!(measurements(), ["", "prod", "prod/cpu", "staging", "staging/cpu", "staging/mem"]);
    server.clock.reach("16:06:00").await;
    assert_eq!(measurements(), ["", "other", "other/cpu", "other/mem", "prod", "prod/mem"]);
    assert_eq!(server.past.lock().unwrap().ended[2].jobs_completed, 3);
    server.scheduler.trigger_now(Scope::default()).await.unwrap();
    server.clock.reach("16:07:00").await;
    assert_eq!(measurements().len(), 10);
}

/// T36: whose ticks came meanwhile has its turn, whichever schedule it was.
#[tokio::test(start_paused = true)]
async fn the_cycle_after_a_long_one_is_for_all_schedules_that_came_round_meanwhile() {
    let server = Server::new(TWO_SCHEDULES);
    server.scheduler.start().await.unwrap();
    let log = Log::capture();
    server.gate.close();
    server.gate.came(1).await;
    server.clock.reach("16:10:00").await;
    server.gate.open();
    server.clock.reach("16:14:00").await;
    assert_eq!(server.began(), ["15:45:00", "16:10:00"]);
    let triggered: Vec<_> =
        log.lines().into_iter().filter(|line| line.message.starts_with("Triggering")).map(|line| line.fields).collect();
    let named = |at: usize, schedules: &str| triggered[at].contains(&format!("schedules=\"{schedules}\""));
    assert!(named(0, "*/15 * * * *") && named(1, "*/15 * * * *; 5 * * * *"), "{triggered:?}");
}

/// T27: two servers that both run the schedule share the work, and nobody notices.
#[tokio::test(start_paused = true)]
async fn two_servers_on_one_state_compact_every_partition_once_without_a_complaint() {
    let log = Log::capture();
    let one = Server::new("min_files = 2");
    let two = Server::beside(&one.arc, &one.state, &one.clock, 2);
    let partitions: Vec<String> = (0..6).map(|hour| format!("db/cpu/2025/10/08/{hour:02}")).collect();
    for partition in &partitions {
        one.arc.write_telemetry(partition, 3, 50);
    }
    let before: Vec<_> = partitions.iter().map(|p| one.rows(p)).collect();

    one.scheduler.start().await.unwrap();
    two.scheduler.start().await.unwrap();
    one.clock.reach("17:06:00").await;

    assert_eq!(
        (one.began(), two.began()),
        (vec!["16:05:00".into(), "17:05:00".into()], vec!["16:05:00".into(), "17:05:00".into()])
    );
    let completed = |server: &Server| server.past.lock().unwrap().ended.iter().map(|c| c.jobs_completed).sum::<u64>();
    assert_eq!(completed(&one) + completed(&two), 6);
    let complaints = log.warnings_and_errors();
    assert!(complaints.is_empty(), "{complaints:#?}");
    for (partition, before) in partitions.iter().zip(&before) {
        assert_eq!(&one.rows(partition), before, "{partition}");
        one.assert_nothing_left_over(partition);
        assert_eq!(one.live(partition), 1, "{partition}");
    }
    assert_eq!(one.state.path(), two.state.path());
}

/// An unknown state is not to be guessed: a paused service must not begin to work because its database cannot be read.
#[tokio::test(start_paused = true)]
async fn a_state_that_cannot_be_read_keeps_the_scheduler_from_starting() {
    let server = Server::new("");
    server.state.write(|c| Ok(c.execute_batch("DROP TABLE service_switches")?)).await.unwrap();
    assert!(server.scheduler.start().await.is_err());
    assert!(!server.scheduler.is_running());
    assert!(server.scheduler.pause().await.is_err());
    assert!(!server.scheduler.is_paused(), "what is not durable has not happened");
}

#[tokio::test(start_paused = true)]
async fn a_schedule_follows_the_wall_clock_of_its_zone() {
    // Berlin goes from 02:00 to 03:00 on 2035-03-25: half past two does not exist, and is made up when the gap is over.
    let arc = Shared::new(Arc::with("schedule = '30 2 * * *'\nschedule_timezone = 'Europe/Berlin'"));
    let clock = Shared::new(TokioClock::at("2035-03-24 00:00:00"));
    let server = Server::beside(&arc, &StateDb::in_memory().unwrap(), &clock, 1);
    server.scheduler.start().await.unwrap();
    clock.pass(TimeDelta::hours(72)).await;
    assert_eq!(server.began(), ["01:30:00", "01:00:00", "00:30:00"]);
    assert_eq!((server.scheduler.schedule(), server.scheduler.timezone().name()), ("30 2 * * *", "Europe/Berlin"));
}
