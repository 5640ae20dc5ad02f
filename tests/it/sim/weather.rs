//! What is set, and what goes wrong in one simulation, and how often: drawn from its seed. Every simulation has some kinds of trouble and not
//! others, so that each kind is also seen alone.

use std::time::Duration;

use arc::compaction::CompactionSettings;
use arc::config::Config;
use chrono::TimeDelta;
use fastrand::Rng;

use super::store::LIST_ON;
use super::wire::{Fault, Kind};

/// Chances are per call, or per step where that is said.
#[derive(Debug, Clone, Default)]
pub struct Weather {
    pub refused: f64,
    pub answer_lost: f64,
    pub answered_twice: f64,
    pub stale: f64,
    pub list_fails: f64,
    pub delete_fails: f64,
    pub database_busy: f64,
    pub child_dies: f64,
    /// Of a burst of 503, per step.
    pub burst: f64,
    pub slow: f64,
    /// The same for what readers call.
    pub slow_readers: f64,
    /// Of a crash, per step.
    pub crash: f64,
    /// Of a crash of whoever makes the call, if it changes storage.
    pub crash_at_change: f64,
    /// Of a worker that stops for longer than its lease, per step.
    pub freeze: f64,
    /// Of a clock that is set, per step.
    pub clock_jump: f64,
    /// Of a new file, per step.
    pub ingest: f64,
    /// Of a file that somebody who keeps data for a limited time removes, per step.
    pub retention: f64,
    /// That a request of a dead caller is carried out all the same.
    pub haunted: f64,
    /// That time passes although there is something to do, per step.
    pub idle: f64,
}

impl Weather {
    pub fn of(random: &mut Rng) -> Self {
        let mut chance = |most: f64| if random.bool() { 0.0 } else { random.f64() * most };
        Self {
            refused: chance(0.05),
            answer_lost: chance(0.08),
            answered_twice: chance(0.2),
            stale: chance(0.05),
            list_fails: chance(0.05),
            delete_fails: chance(0.3),
            database_busy: chance(0.1),
            child_dies: chance(0.2),
            burst: chance(0.003),
            slow: chance(0.05),
            crash: chance(0.01),
            crash_at_change: chance(0.15),
            freeze: chance(0.01),
            clock_jump: chance(0.01),
            haunted: chance(1.0),
            idle: chance(0.02),
            slow_readers: chance(0.5),
            retention: chance(0.008),
            ingest: 0.01 + random.f64() * 0.05,
        }
    }

    /// What goes wrong with a call.
    pub fn fault(&self, random: &mut Rng, kind: Kind, in_burst: bool) -> Option<Fault> {
        let mut hits = |chance: f64| chance > 0.0 && random.f64() < chance;
        let (refused, lost, twice, stale) = match kind {
            Kind::Get => (self.refused, 0.0, 0.0, self.stale),
            Kind::List => (self.refused + self.list_fails, 0.0, 0.0, 0.0),
            Kind::Prepare => (self.refused, self.answer_lost, 0.0, 0.0),
            // Few and decisive.
            Kind::Complete => (3.0 * self.refused, 3.0 * self.answer_lost, 0.0, 0.0),
            Kind::Create | Kind::Swap => (self.refused, self.answer_lost, self.answered_twice, 0.0),
            Kind::Delete => (self.refused + self.delete_fails, self.answer_lost, 0.0, 0.0),
            Kind::Lock => (self.database_busy, self.database_busy / 2.0, 0.0, 0.0),
            Kind::State => (self.database_busy, 0.0, 0.0, 0.0),
            Kind::StateAnswer => (0.0, self.database_busy / 2.0, 0.0, 0.0),
            Kind::Merge => (self.child_dies, 0.0, 0.0, 0.0),
        };
        let burst = if in_burst && kind.is_storage() { 0.8 } else { 0.0 };
        if hits(refused + burst) {
            Some(Fault::Refused)
        } else if hits(lost) {
            Some(Fault::AnswerLost)
        } else if hits(twice) {
            Some(Fault::AnsweredTwice)
        } else if hits(stale) {
            Some(Fault::Stale)
        } else {
            None
        }
    }
}

/// Mostly short, sometimes longer than any lease.
pub fn some_time(random: &mut Rng) -> Duration {
    let most = [50, 1_000, 10_000, 60_000, 400_000][random.usize(..5)];
    Duration::from_millis(random.u64(1..=most))
}

/// How wrong a clock is.
pub fn some_offset(random: &mut Rng) -> TimeDelta {
    let most = [0, 2, 60, 900, 7_200][random.usize(..5)];
    TimeDelta::seconds(random.i64(-most..=most))
}

/// Settings under which everything happens soon.
pub fn settings(random: &mut Rng) -> CompactionSettings {
    let mut settings = Config::default().compaction;
    settings.max_concurrent_jobs = random.usize(1..=2).try_into().unwrap();
    settings.lock_ttl = Duration::from_secs(random.u64(5..=90));
    settings.record_retention = Duration::from_secs([0, 60, 3_600][random.usize(..3)]);
    settings.quarantine_retry = Duration::from_secs([60, 3_600][random.usize(..2)]);
    let policy = &mut settings.partition.policy;
    policy.min_files = random.usize(2..=3);
    policy.settle = Duration::from_secs([0, 30][random.usize(..2)]);
    policy.late_data_max_wait = Duration::from_secs([60, 600][random.usize(..2)]);
    policy.late_rewrite_ratio = [0.0, 0.1, 1.0, 100.0][random.usize(..4)];
    policy.max_side_files = random.usize(1..=4);
    policy.target_file_size_bytes = [1 << 30, 3_000][random.usize(..2)];
    settings
}

/// What a fault is called in the figures.
pub fn name((kind, what): (Kind, &str), fault: Fault) -> &'static str {
    match (kind, fault) {
        (Kind::Get, Fault::Refused) => "read refused",
        (Kind::List, _) if what == LIST_ON => "list failed on a later page",
        (Kind::List, _) => "list failed",
        (Kind::Prepare, _) => "upload failed",
        (Kind::Complete, Fault::Refused) => "complete refused",
        (Kind::Complete, _) => "complete: answer lost",
        (Kind::Create, Fault::Refused) => "create refused",
        (Kind::Create, Fault::AnsweredTwice) => "create: 412 after success",
        (Kind::Create, _) => "create: answer lost",
        (Kind::Swap, Fault::Refused) => "lease refused",
        (Kind::Swap, Fault::AnsweredTwice) => "lease: 412 after success",
        (Kind::Swap, _) => "lease: answer lost",
        (Kind::Delete, Fault::Refused) => "delete refused",
        (Kind::Delete, _) => "delete: answer lost",
        (Kind::Lock, Fault::Refused) => "locks busy",
        (Kind::Lock, _) => "locks: answer lost",
        (Kind::State, _) => "state busy",
        (Kind::StateAnswer, _) => "state: answer lost",
        (Kind::Merge, _) => "child died",
        (Kind::Get, _) => "stale read",
    }
}
