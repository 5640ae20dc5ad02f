//! Time, injected: the only place that reads the wall clock.
//!
//! Two times, because neither can stand for the other: the wall clock, which people and other machines share and which can be
//! set, and the time that has passed, which nobody sets. What is granted for a while (a lease) ends by whichever says so
//! first.

use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

/// Tells the time. Everything that decides by time takes it from here, so that a test can say what time it is.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now, UTC.
    fn now(&self) -> DateTime<Utc>;

    /// The time since a fixed moment of the past. Only differences mean anything. It never goes back, whoever sets the clock,
    /// and goes on while the process is stopped or the machine suspended, as far as the system tells.
    fn uptime(&self) -> Duration;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one home of the wall clock")]
    fn now(&self) -> DateTime<Utc> {
        // Times that are shown have whole milliseconds.
        Utc::now().trunc_subsecs(3)
    }

    /// What Linux counts from its boot on (`CLOCK_BOOTTIME`), asleep or not, in hundredths of a second. Elsewhere, the time
    /// that this process has been awake.
    fn uptime(&self) -> Duration {
        static AWAKE: OnceLock<Awake> = OnceLock::new();
        AWAKE.get_or_init(Awake::default).uptime(since_boot())
    }
}

/// The time that this process has been awake, and by how much the system's own count has been ahead of it. That lead only
/// grows, with every sleep, so it also holds while the system's count cannot be read.
#[derive(Debug)]
struct Awake {
    began: Instant,
    lead: Mutex<Duration>,
}

impl Default for Awake {
    fn default() -> Self {
        Self { began: Instant::now(), lead: Mutex::default() }
    }
}

impl Awake {
    fn uptime(&self, since_boot: Option<Duration>) -> Duration {
        let mut lead = self.lead.lock().unwrap_or_else(PoisonError::into_inner);
        let awake = self.began.elapsed();
        *lead = since_boot.map_or(*lead, |all| all.saturating_sub(awake).max(*lead));
        awake + *lead
    }
}

fn since_boot() -> Option<Duration> {
    parse_uptime(&std::fs::read_to_string("/proc/uptime").ok()?)
}

/// `12345.67 8901.23`: seconds since the boot, and others.
fn parse_uptime(text: &str) -> Option<Duration> {
    let seconds = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// A clock that stands still until it is told to move. Both of its times move together.
#[derive(Debug)]
pub struct ManualClock(Mutex<DateTime<Utc>>);

impl ManualClock {
    #[must_use]
    pub fn at(time: DateTime<Utc>) -> Self {
        Self(Mutex::new(time))
    }

    /// Moves the clock, forwards or backwards.
    pub fn advance(&self, by: TimeDelta) {
        *self.0.lock().expect("no holder of this lock panics") += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().expect("no holder of this lock panics")
    }

    fn uptime(&self) -> Duration {
        (self.now() - DateTime::UNIX_EPOCH).to_std().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_time_has_whole_milliseconds() {
        assert_eq!(SystemClock.now().timestamp_subsec_nanos() % 1_000_000, 0);
    }

    #[test]
    fn the_time_that_has_passed_only_grows() {
        let times: Vec<Duration> = (0..1000).map(|_| SystemClock.uptime()).collect();
        assert!(times.is_sorted() && times[0] < times[999], "{times:?}");
    }

    #[test]
    fn a_sleep_is_not_forgotten_when_the_systems_count_cannot_be_read() {
        let awake = Awake::default();
        let slept = Duration::from_hours(10);
        assert!(awake.uptime(Some(slept)) >= slept);
        assert!(awake.uptime(None) >= slept);
        assert!(awake.uptime(Some(Duration::ZERO)) >= slept);
    }

    #[test]
    fn the_time_since_the_boot_is_read_from_the_systems_words() {
        assert_eq!(parse_uptime("12345.67 8901.23\n"), Some(Duration::from_millis(12_345_670)));
        for bad in ["", "x", "-1 2", "inf 1", "nan"] {
            assert_eq!(parse_uptime(bad), None, "{bad}");
        }
    }
}
