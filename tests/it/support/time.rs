//! A clock that runs with tokio's time, which tests pause, and that can be set, as a machine's clock can.
//!
//! On a paused clock nobody waits: time jumps to the next moment at which something is due as soon as nothing else can go on.
//! Sleeps in tests are of that kind, except where `architecture.rs` says why not.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc::clock::Clock;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::again;

#[derive(Debug)]
pub struct TokioClock {
    began: Instant,
    /// What the clock shows at `began`; setting it moves this.
    base: Mutex<DateTime<Utc>>,
    broken: AtomicBool,
}

impl TokioClock {
    /// Shows this time now. To be made inside of a runtime.
    pub fn at(time: &str) -> Self {
        let base = Mutex::new(format!("{}Z", time.replace(' ', "T")).parse().unwrap());
        Self { began: Instant::now(), base, broken: AtomicBool::new(false) }
    }

    /// Sets the clock forwards, as a suspended machine finds it, or backwards.
    pub fn set(&self, by: TimeDelta) {
        *self.base.lock().unwrap() += by;
    }

    /// From now on nobody can read it without a panic.
    pub fn break_it(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }

    /// Whole again.
    pub fn mend(&self) {
        self.broken.store(false, Ordering::SeqCst);
    }

    /// Lets time pass.
    pub async fn pass(&self, time: TimeDelta) {
        tokio::time::sleep(time.to_std().unwrap()).await;
    }

    /// Lets time pass until the clock shows this time of its day, `HH:MM:SS`.
    pub async fn reach(&self, time: &str) {
        let now = self.now();
        let then = now.date_naive().and_time(time.parse().unwrap()).and_utc();
        self.pass(then - now).await;
    }
}

impl Clock for TokioClock {
    fn now(&self) -> DateTime<Utc> {
        if self.broken.load(Ordering::SeqCst) {
            again::silently(|| panic!("the clock is broken"));
        }
        *self.base.lock().unwrap() + TimeDelta::from_std(self.began.elapsed()).unwrap()
    }

    fn uptime(&self) -> Duration {
        self.began.elapsed()
    }
}
