//! When which schedule is due. Pure: it is told the time and looks at no clock.
//!
//! ```text
//!            seen            now
//!  ──┬────────┼───┬───┬───┬───┼─────┬──>      three ticks passed since the last look: one cycle
//!   tick          tick tick tick    tick      the next one
//! ```
//!
//! What must hold, whatever the clock does:
//! - A tick that the clock reaches fires at the first look at or after it, and once.
//! - Several ticks since the last look (suspend, a clock set forward, a busy machine) are one.
//! - After a clock was set *back*, what lies ahead of it fires again when it is reached, so that a clock that was wrong by
//!   a year stops nothing for a year. Only the tick that fired last does not: a clock that is corrected by seconds
//!   right after a tick would fire it twice in a row. Between two cycles there are so at most two periods of the schedule.
//! - Ticks before the first look are not made up. A start is not a tick: a cycle that takes its process down must not
//!   begin again with every restart.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::schedule::Schedule;

/// Schedules, and how far each one got.
#[derive(Debug, Clone)]
pub(super) struct Timing {
    entries: Vec<Entry>,
    zone: Tz,
    /// The time of the last look. Ticks up to here are dealt with.
    seen: DateTime<Utc>,
}

#[derive(Debug, Clone)]
struct Entry {
    schedule: Schedule,
    /// When it was last found due.
    fired_at: Option<DateTime<Utc>>,
}

/// The next tick of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Next {
    pub at: DateTime<Utc>,
    /// The schedules whose tick it is.
    pub schedules: BTreeSet<String>,
}

impl Timing {
    /// Ticks after `since` count.
    pub(super) fn new(schedules: Vec<Schedule>, zone: Tz, since: DateTime<Utc>) -> Self {
        let entries = schedules.into_iter().map(|schedule| Entry { schedule, fired_at: None }).collect();
        Self { entries, zone, seen: since }
    }

    /// The schedules that became due since the last look.
    pub(super) fn look(&mut self, now: DateTime<Utc>) -> BTreeSet<String> {
        // A clock that was set back starts from where it is.
        let from = self.seen.min(now);
        self.seen = now;
        let mut due = BTreeSet::new();
        for entry in &mut self.entries {
            if entry.next_after(from, self.zone).is_some_and(|tick| tick <= now) {
                entry.fired_at = Some(now);
                due.insert(entry.schedule.to_string());
            }
        }
        due
    }

    /// The next tick after `now`. `None`: no schedule ever fires again.
    pub(super) fn next(&self, now: DateTime<Utc>) -> Option<Next> {
        let from = self.seen.min(now);
        let ticks: Vec<_> = self.entries.iter().filter_map(|e| Some((e.next_after(from, self.zone)?, e))).collect();
        let at = ticks.iter().map(|(tick, _)| *tick).min()?;
        let schedules = ticks.iter().filter(|(tick, _)| *tick == at).map(|(_, e)| e.schedule.to_string()).collect();
        Some(Next { at, schedules })
    }
}

impl Entry {
    /// The first tick after `from` that is to fire.
    fn next_after(&self, from: DateTime<Utc>, zone: Tz) -> Option<DateTime<Utc>> {
        let tick = self.schedule.next_after(from, zone)?;
        let Some(fired_at) = self.fired_at.filter(|fired_at| tick <= *fired_at) else { return Some(tick) };
        // The clock was set back to before a tick that it had reached. Was that the last one?
        match self.schedule.next_after(tick, zone) {
            Some(later) if later <= fired_at => Some(tick),
            later => later,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        format!("{}Z", text.replace(' ', "T")).parse().unwrap()
    }

    fn started(schedules: &[&str], zone: Tz, since: &str) -> Timing {
        Timing::new(schedules.iter().map(|s| Schedule::parse(s).unwrap()).collect(), zone, at(since))
    }

    /// What fires while the clock shows these times.
    fn looks(timing: &mut Timing, times: &[&str]) -> Vec<String> {
        let fired = times.iter().filter(|time| !timing.look(at(time)).is_empty());
        fired.map(|time| (*time).to_owned()).collect()
    }

    /// Looks every half minute, and says when something was due.
    fn run(timing: &mut Timing, from: &str, until: &str) -> Vec<DateTime<Utc>> {
        let (mut now, until) = (at(from), at(until));
        let mut fired = Vec::new();
        while now <= until {
            if !timing.look(now).is_empty() {
                fired.push(now);
            }
            now += TimeDelta::seconds(30);
        }
        fired
    }

    #[test]
    fn a_tick_fires_at_the_first_look_at_or_after_it_and_once() {
        let mut timing = started(&["5 * * * *"], Tz::UTC, "2025-10-08 15:05:00");
        assert_eq!(timing.next(at("2025-10-08 15:05:00")).unwrap().at, at("2025-10-08 16:05:00"));
        let times = ["2025-10-08 15:05:00", "2025-10-08 16:04:59.999", "2025-10-08 16:05:00", "2025-10-08 16:05:00.5"];
        assert_eq!(looks(&mut timing, &times), ["2025-10-08 16:05:00"]);
        assert_eq!(timing.next(at("2025-10-08 16:05:00.5")).unwrap().at, at("2025-10-08 17:05:00"));
    }

    #[test]
    fn ticks_that_were_slept_through_are_one() {
        let mut timing = started(&["5 * * * *"], Tz::UTC, "2025-10-08 15:00:00");
        let times = ["2025-10-08 15:01:00", "2025-10-09 09:30:00", "2025-10-09 09:30:30", "2025-10-09 10:05:00"];
        assert_eq!(looks(&mut timing, &times), ["2025-10-09 09:30:00", "2025-10-09 10:05:00"]);
    }

    #[test]
    fn a_clock_set_back_by_seconds_does_not_fire_the_same_tick_twice() {
        let mut timing = started(&["5 * * * *"], Tz::UTC, "2025-10-08 16:00:00");
        let times = ["2025-10-08 16:05:00", "2025-10-08 16:04:58", "2025-10-08 16:05:01", "2025-10-08 16:04:59"];
        assert_eq!(looks(&mut timing, &times), ["2025-10-08 16:05:00"]);
        assert_eq!(timing.next(at("2025-10-08 16:04:59")).unwrap().at, at("2025-10-08 17:05:00"));
        assert_eq!(looks(&mut timing, &["2025-10-08 16:05:00", "2025-10-08 17:05:00"]), ["2025-10-08 17:05:00"]);
    }

    #[test]
    fn a_clock_set_back_by_a_year_goes_on_from_there() {
        let mut timing = started(&["5 * * * *"], Tz::UTC, "2026-10-08 16:00:00");
        let times = ["2026-10-08 16:05:00", "2025-10-08 16:06:00", "2025-10-08 17:05:00", "2025-10-08 18:05:00"];
        assert_eq!(looks(&mut timing, &times), ["2026-10-08 16:05:00", "2025-10-08 17:05:00", "2025-10-08 18:05:00"]);
    }

    #[test]
    fn a_clock_that_jumped_ahead_and_is_set_right_fires_every_tick_that_comes() {
        let mut timing = started(&["5 * * * *"], Tz::UTC, "2025-10-08 16:00:00");
        let times = ["2025-10-09 16:00:00", "2025-10-08 16:01:00", "2025-10-08 16:05:00", "2025-10-08 17:05:00"];
        assert_eq!(looks(&mut timing, &times), ["2025-10-09 16:00:00", "2025-10-08 16:05:00", "2025-10-08 17:05:00"]);
    }

    #[test]
    fn schedules_are_due_each_at_its_time_and_together_where_their_ticks_meet() {
        let mut timing = started(&["0 * * * *", "*/15 * * * *"], Tz::UTC, "2025-10-08 15:00:00");
        let names = |names: &[&str]| names.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(timing.next(at("2025-10-08 15:00:00")).unwrap().schedules, names(&["*/15 * * * *"]));
        assert_eq!(timing.look(at("2025-10-08 15:15:00")), names(&["*/15 * * * *"]));
        assert_eq!(timing.look(at("2025-10-08 15:45:10")), names(&["*/15 * * * *"]));
        let next = Next { at: at("2025-10-08 16:00:00"), schedules: names(&["*/15 * * * *", "0 * * * *"]) };
        assert_eq!(timing.next(at("2025-10-08 15:45:10")), Some(next));
        assert_eq!(timing.look(at("2025-10-08 16:00:00")), names(&["*/15 * * * *", "0 * * * *"]));
    }

    /// T55: the days of 23 and 25 hours in Berlin, looked through every half minute.
    #[test]
    fn daylight_saving_neither_drops_nor_doubles_a_tick() {
        let (spring, autumn) =
            (("2025-03-29 23:00:00", "2025-03-30 21:59:59"), ("2025-10-25 22:00:00", "2025-10-26 22:59:59"));
        // The day's ticks are those of its minutes: 23 or 25 hours long. A tick at its very beginning was before.
        for (schedule, in_spring, in_autumn) in [
            ("*/15 * * * *", 23 * 4 - 1, 25 * 4 - 1),
            ("5 * * * *", 23, 25),
            ("30 2 * * *", 1, 1),
            ("0 2 * * *", 1, 1),
            ("0 3 * * *", 1, 1),
        ] {
            for ((from, until), ticks) in [(spring, in_spring), (autumn, in_autumn)] {
                let mut timing = started(&[schedule], Tz::Europe__Berlin, from);
                assert_eq!(run(&mut timing, from, until).len(), ticks, "{schedule} from {from}");
            }
        }
        // 02:30 does not exist: it is made up when the gap is over. Twice: the first one counts.
        let mut timing = started(&["30 2 * * *"], Tz::Europe__Berlin, spring.0);
        assert_eq!(run(&mut timing, spring.0, spring.1), [at("2025-03-30 01:00:00")]);
        let mut timing = started(&["30 2 * * *"], Tz::Europe__Berlin, autumn.0);
        assert_eq!(run(&mut timing, autumn.0, autumn.1), [at("2025-10-26 00:30:00")]);
    }

    /// What a machine's clock does: it runs, with looks at most half a minute apart, or it is set.
    #[derive(Debug, Clone)]
    enum Stretch {
        Runs { seconds: Vec<u32> },
        IsSet { seconds: i64 },
    }

    fn stretches() -> impl Strategy<Value = Vec<Stretch>> {
        let runs = prop::collection::vec(1_u32..=30, 1..200).prop_map(|seconds| Stretch::Runs { seconds });
        let small = (-120_i64..120).prop_map(|seconds| Stretch::IsSet { seconds });
        let large = (-200_000_i64..200_000).prop_map(|seconds| Stretch::IsSet { seconds });
        prop::collection::vec(prop_oneof![4 => runs, 1 => small, 1 => large], 1..12)
    }

    fn schedules() -> impl Strategy<Value = String> {
        prop_oneof![
            (1_u32..=30).prop_map(|n| format!("*/{n} * * * *")),
            (0_u32..60).prop_map(|m| format!("{m} * * * *")),
            (0_u32..60, 0_u32..24).prop_map(|(m, h)| format!("{m} {h} * * *")),
            (0_u32..60, 0_u32..24, 0_u32..7).prop_map(|(m, h, d)| format!("{m},{} {h} * * {d}", (m + 7) % 60)),
            Just("* * * * *".to_owned()),
        ]
    }

    proptest! {
        /// While the clock runs, every tick that it reaches fires exactly once, whatever was done to the clock before;
        /// only the tick that fired last does not fire again. What the clock was set past fires once.
        #[test]
        fn every_tick_that_a_running_clock_reaches_fires_exactly_once(
            schedule in schedules(),
            zone in prop::sample::select(vec![Tz::UTC, Tz::Europe__Berlin, Tz::America__New_York, Tz::Asia__Kolkata,
                Tz::Australia__Lord_Howe]),
            // Around the days on which clocks change, and elsewhere.
            start in prop::sample::select(vec!["2025-03-30 00:30:00", "2025-10-26 00:10:00", "2025-11-02 05:00:00",
                "2025-03-09 06:00:00", "2025-04-05 14:30:00", "2025-12-31 23:00:00", "2024-02-28 22:00:00"]),
            stretches in stretches(),
        ) {
            let parsed = Schedule::parse(&schedule).unwrap();
            let mut now = at(start);
            let mut timing = started(&[&schedule], zone, start);
            // The oracle: the last tick that fired, found by walking from tick to tick.
            let mut last: Option<DateTime<Utc>> = None;
            for stretch in stretches {
                let steps: Vec<i64> = match stretch {
                    Stretch::Runs { seconds } => seconds.into_iter().map(i64::from).collect(),
                    Stretch::IsSet { seconds } => vec![seconds],
                };
                for step in steps {
                    let (before, after) = (now, now + TimeDelta::seconds(step));
                    now = after;
                    let announced = timing.next(before);
                    let mut passed = Vec::new();
                    let mut tick = before;
                    while let Some(next) = parsed.next_after(tick, zone).filter(|next| *next <= after) {
                        prop_assert!(next > tick);
                        passed.push(next);
                        tick = next;
                    }
                    let fires = passed.iter().any(|tick| Some(*tick) != last);
                    let due = timing.look(now);
                    prop_assert_eq!(!due.is_empty(), fires, "{} to {}, last {:?}", before, after, last);
                    // Where the clock ran, what fired had been announced.
                    if fires {
                        let first = passed.iter().find(|tick| Some(**tick) != last).copied();
                        prop_assert_eq!(announced.map(|next| next.at), first);
                        last = passed.last().copied();
                    }
                    prop_assert!(timing.look(now).is_empty(), "a second look at the same time");
                    prop_assert!(timing.next(now).is_none_or(|next| next.at > now));
                }
            }
        }
    }
}
