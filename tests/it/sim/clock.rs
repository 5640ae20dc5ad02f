//! The clocks of machines: the simulation's time, and what each machine makes of it.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use arc::clock::Clock;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

/// Goes with tokio's paused time, wrong by an offset that can be changed at any moment.
pub struct SimClock {
    started: Instant,
    started_at: DateTime<Utc>,
    offset: Mutex<TimeDelta>,
}

impl SimClock {
    /// Shows `started_at` now.
    pub fn starting_at(started_at: DateTime<Utc>) -> Self {
        Self { started: Instant::now(), started_at, offset: Mutex::default() }
    }

    /// Another clock for the same time, wrong by `offset`.
    pub fn off_by(&self, offset: TimeDelta) -> Self {
        Self { offset: Mutex::new(offset), ..*self }
    }

    /// Somebody sets the clock.
    pub fn jump(&self, by: TimeDelta) {
        *self.offset.lock().unwrap() += by;
    }
}

impl Clock for SimClock {
    fn now(&self) -> DateTime<Utc> {
        let elapsed = TimeDelta::from_std(self.started.elapsed()).unwrap();
        self.started_at + elapsed + *self.offset.lock().unwrap()
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

impl fmt::Debug for SimClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimClock({})", self.now())
    }
}
