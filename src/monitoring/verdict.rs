//! Deciding whether the service is ready. Pure: what was found goes in, the verdict comes out.
//!
//! ```text
//! ready_at of the oldest candidate      tick   tick   tick
//! ────┬──────────────────────────────────┴──────┴──────┬────────> time
//!     │                 at least an hour               └ from here on: far behind schedule
//! ```
//!
//! A candidate is far behind when the schedule has fired three times since it was ready, and an hour has passed. Counting
//! ticks instead of hours makes the rule right for schedules that pause at night or at weekends. What was ready before
//! the service started counts from its start: a service that was down gets the time to catch up.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use chrono_tz::Tz;
use serde::Serialize;

use crate::compaction::Backlog;
use crate::schedule::Schedule;

/// Ticks of the schedule after which a candidate that still waits is far behind.
const TICKS_ALLOWED: usize = 3;
/// A candidate may always wait as long as this: a cycle of a schedule with short intervals may take longer than those.
const MIN_ALLOWED: TimeDelta = TimeDelta::hours(1);

/// One aspect, and what is to be said about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub ok: bool,
    /// A sentence for people. Never a secret.
    pub detail: String,
}

impl Check {
    #[must_use]
    pub fn good(detail: impl Into<String>) -> Self {
        Self { ok: true, detail: detail.into() }
    }

    #[must_use]
    pub fn bad(detail: impl Into<String>) -> Self {
        Self { ok: false, detail: detail.into() }
    }
}

/// Whether the service is ready, with the reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// `ready` or `not_ready`.
    pub status: &'static str,
    pub checks: BTreeMap<&'static str, Check>,
}

impl Verdict {
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.checks.values().all(|check| check.ok)
    }

    pub(super) fn of(checks: impl IntoIterator<Item = (&'static str, Check)>) -> Self {
        let checks = BTreeMap::from_iter(checks);
        let mut verdict = Self { status: "ready", checks };
        if !verdict.is_ready() {
            verdict.status = "not_ready";
        }
        verdict
    }
}

/// What the scheduler is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchedulerState {
    /// Compaction is switched off by the configuration: nothing is expected to happen.
    Disabled,
    /// An operator has paused it: nothing new is expected to happen.
    Paused,
    Running,
    /// Its task has ended although nobody stopped it, and is not back yet.
    Dead,
}

/// The work of the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    pub scheduler: SchedulerState,
    pub cycle_running: bool,
    pub active_jobs: usize,
    /// What scans left to do; `None` before the first.
    pub backlog: Option<Backlog>,
}

/// The work and the circumstances that it is judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress<'a> {
    pub(super) now: DateTime<Utc>,
    pub(super) started_at: DateTime<Utc>,
    /// All schedules in force. The one that allows most decides, because it is not known which one a candidate obeys.
    pub(super) schedules: &'a [Schedule],
    pub(super) zone: Tz,
    pub(super) work: Work,
}

impl Progress<'_> {
    pub(super) fn scheduler_check(&self) -> Check {
        match self.work.scheduler {
            SchedulerState::Disabled => Check::good("compaction is disabled by the configuration (compaction.enabled)"),
            SchedulerState::Paused => Check::good("paused by an operator; POST /api/compaction/resume continues"),
            SchedulerState::Running => Check::good("running"),
            SchedulerState::Dead => Check::bad(
                "the scheduler's task has ended; it is started again within a minute, the log says why it ended",
            ),
        }
    }

    /// Whether scans happen and the work gets done (T37).
    pub(super) fn backlog_check(&self) -> Check {
        match self.work.scheduler {
            SchedulerState::Disabled | SchedulerState::Paused => {
                return Check::good("nothing is expected to happen while compaction is disabled or paused");
            }
            SchedulerState::Running | SchedulerState::Dead => {}
        }
        let Some(scan) = self.work.backlog else {
            return match self.overdue_since(self.started_at) {
                Some(_) if !self.work.cycle_running => Check::bad(format!(
                    "no scan has been completed since the service started at {}: look at the log for the reason",
                    shown(self.started_at)
                )),
                _ => Check::good("waiting for the first scan"),
            };
        };
        let left = match scan.partitions {
            1 => "1 partition waits".to_owned(),
            n => format!("{n} partitions wait"),
        };
        if let Some(ready_at) = scan.oldest_ready_at
            && self.overdue_since(ready_at).is_some()
        {
            let mut detail = format!(
                "far behind schedule: {left}, the oldest one has been ready since {} ({} ago)",
                shown(ready_at),
                ago(self.now - ready_at)
            );
            if self.work.cycle_running {
                detail.push_str("; a cycle is running");
            }
            return Check::bad(detail);
        }
        if !self.work.cycle_running && self.overdue_since(scan.seen_at).is_some() {
            return Check::bad(format!(
                "the last complete scan was at {} ({} ago): look at the log for the reason",
                shown(scan.seen_at),
                ago(self.now - scan.seen_at)
            ));
        }
        Check::good(format!("{left} as of {}", shown(scan.seen_at)))
    }

    /// When what has waited since `since` became far behind schedule, if it has.
    fn overdue_since(&self, since: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let since = since.max(self.started_at);
        let deadlines = self.schedules.iter().map(|schedule| {
            let ticks = (0..TICKS_ALLOWED).try_fold(since, |at, _| schedule.next_after(at, self.zone));
            ticks.unwrap_or(DateTime::<Utc>::MAX_UTC)
        });
        let deadline = deadlines.fold(since + MIN_ALLOWED, DateTime::max);
        (self.now > deadline).then_some(deadline)
    }
}

fn shown(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn ago(time: TimeDelta) -> String {
    let mut text = String::new();
    let (days, hours, minutes) = (time.num_days(), time.num_hours() % 24, time.num_minutes() % 60);
    for (number, unit) in [(days, "d"), (hours, "h"), (minutes, "min")] {
        if number > 0 {
            let space = if text.is_empty() { "" } else { " " };
            write!(text, "{space}{number} {unit}").expect("a string takes everything");
        }
    }
    if text.is_empty() { "less than a minute".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn schedules(all: &[&str]) -> Vec<Schedule> {
        all.iter().map(|text| Schedule::parse(text).unwrap()).collect()
    }

    /// What a scan at that time left.
    fn left(seen_at: &str, partitions: u64, oldest_ready_at: Option<&str>) -> Work {
        let backlog = Backlog { partitions, bytes: 0, oldest_ready_at: oldest_ready_at.map(at), seen_at: at(seen_at) };
        Work { scheduler: SchedulerState::Running, cycle_running: false, active_jobs: 0, backlog: Some(backlog) }
    }

    /// A Wednesday; the service has been up for days, and the last scan is a few minutes old.
    fn healthy(schedules: &[Schedule]) -> Progress<'_> {
        Progress {
            now: at("2025-10-08T16:10:00Z"),
            started_at: at("2025-10-01T00:00:00Z"),
            schedules,
            zone: Tz::UTC,
            work: left("2025-10-08T16:05:10Z", 0, None),
        }
    }

    #[test]
    fn a_service_whose_scans_leave_nothing_is_on_schedule() {
        let hourly = schedules(&["5 * * * *"]);
        let progress = healthy(&hourly);
        assert_eq!(progress.backlog_check(), Check::good("0 partitions wait as of 2025-10-08T16:05:10Z"));
        assert_eq!(progress.scheduler_check(), Check::good("running"));
    }

    #[test]
    fn a_candidate_that_three_ticks_and_an_hour_have_passed_is_far_behind() {
        for (schedule, ready_at, behind) in [
            // Ticks at 14:05, 15:05, 16:05; now is 16:10.
            ("5 * * * *", "2025-10-08T14:00:00Z", true),
            ("5 * * * *", "2025-10-08T14:06:00Z", false),
            // Three ticks pass in 15 minutes, but an hour has not.
            ("*/5 * * * *", "2025-10-08T15:20:00Z", false),
            ("*/5 * * * *", "2025-10-08T15:05:00Z", true),
            // Once a day at three: three nights.
            ("0 3 * * *", "2025-10-06T02:00:00Z", true),
            ("0 3 * * *", "2025-10-06T04:00:00Z", false),
            // Never between Friday and Monday: Friday evening to Wednesday is no reason for alarm.
            ("0 3 * * 1", "2025-10-03T20:00:00Z", false),
        ] {
            let schedules = schedules(&[schedule]);
            let work = left("2025-10-08T16:05:10Z", 2, Some(ready_at));
            let check = Progress { work, ..healthy(&schedules) }.backlog_check();
            assert_eq!(check.ok, !behind, "{schedule} {ready_at}: {check:?}");
        }
    }

    #[test]
    fn the_reason_names_the_number_and_the_age() {
        let hourly = schedules(&["5 * * * *"]);
        let work = left("2025-10-08T16:05:10Z", 7, Some("2025-10-06T13:00:00Z"));
        let check = Progress { work: Work { cycle_running: true, ..work }, ..healthy(&hourly) }.backlog_check();
        let expected = "far behind schedule: 7 partitions wait, the oldest one has been ready since 2025-10-06T13:00:00Z \
                        (2 d 3 h 10 min ago); a cycle is running";
        assert_eq!(check, Check::bad(expected));
    }

    #[test]
    fn a_service_that_was_down_gets_time_to_catch_up() {
        let hourly = schedules(&["5 * * * *"]);
        let work = left("2025-10-08T16:05:10Z", 900, Some("2024-01-01T00:00:00Z"));
        let up_for_an_hour = Progress { work, started_at: at("2025-10-08T15:00:00Z"), ..healthy(&hourly) };
        assert!(up_for_an_hour.backlog_check().ok);
    }

    /// T37: the process lives, nothing happens.
    #[test]
    fn scans_that_have_stopped_show_whatever_the_backlog_was() {
        let hourly = schedules(&["5 * * * *"]);
        let stopped = Progress { work: left("2025-10-08T12:05:00Z", 0, None), ..healthy(&hourly) };
        let expected =
            "the last complete scan was at 2025-10-08T12:05:00Z (4 h 5 min ago): look at the log for the reason";
        assert_eq!(stopped.backlog_check(), Check::bad(expected));
        // The next one has begun and takes long.
        assert!(Progress { work: Work { cycle_running: true, ..stopped.work }, ..stopped }.backlog_check().ok);

        let never = Progress { work: Work { backlog: None, ..stopped.work }, ..stopped };
        assert!(!never.backlog_check().ok);
        assert!(Progress { started_at: at("2025-10-08T16:00:00Z"), ..never }.backlog_check().ok);
    }

    #[test]
    fn the_most_patient_schedule_decides() {
        let both = schedules(&["*/15 * * * *", "0 3 * * *"]);
        let work = left("2025-10-08T16:05:10Z", 1, Some("2025-10-08T04:00:00Z"));
        assert!(Progress { work, ..healthy(&both) }.backlog_check().ok);
    }

    #[test]
    fn a_dead_scheduler_is_a_reason_and_a_paused_or_disabled_one_is_not() {
        let hourly = schedules(&["5 * * * *"]);
        for (scheduler, ok) in
            [(SchedulerState::Dead, false), (SchedulerState::Paused, true), (SchedulerState::Disabled, true)]
        {
            let work = left("2025-10-02T00:00:00Z", 9, Some("2025-10-01T00:00:00Z"));
            let progress = Progress { work: Work { scheduler, ..work }, ..healthy(&hourly) };
            let verdict =
                Verdict::of([("scheduler", progress.scheduler_check()), ("backlog", progress.backlog_check())]);
            assert_eq!(verdict.is_ready(), ok, "{verdict:?}");
            assert_eq!(verdict.checks["scheduler"].ok, ok);
        }
    }

    #[test]
    fn the_answer_has_the_documented_shape() {
        let verdict = Verdict::of([("storage", Check::bad("gone")), ("state", Check::good("answers"))]);
        assert_eq!(
            serde_json::to_value(&verdict).unwrap(),
            serde_json::json!({"status": "not_ready", "checks": {
                "state": {"ok": true, "detail": "answers"}, "storage": {"ok": false, "detail": "gone"}}})
        );
        assert_eq!(Verdict::of([("storage", Check::good("x"))]).status, "ready");
    }
}
