//! Holding a lease while a job runs: renewed in the background, given back at the end.
//!
//! What must hold: **a lease ends for its holder no later than for everybody else**, also for one that cannot renew it because
//! it is cut off, and for one that did not run for a while because it was stopped or its machine suspended. So the guard keeps
//! the end itself, by the time that has passed since *before* the lease was asked for ([`Clock::uptime`]) and by the end that
//! is written in it (the clock may have been set, and others of this machine go by that). Whoever asks
//! [`LeaseGuard::is_lost`] is answered by those clocks, at that moment, and not by what the last renewal said.
//!
//! What nobody can give from here: a stop between the look and the request that follows it. For that there is the commit
//! protocol (I7).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::job::LOG;
use crate::clock::Clock;
use crate::lock::{Lease, LockError, LockManager};

/// A lease is renewed when this part of its time has passed, so that two renewals may fail before it expires.
const RENEWALS_PER_TTL: u32 = 3;

/// How long it is tried to give back a lease that is lost.
const LATE_RELEASE: Duration = Duration::from_secs(5);

/// What a lease is asked for, and when. Made before the request.
#[derive(Debug)]
pub struct Asked {
    clock: Arc<dyn Clock>,
    ttl: Duration,
    at: Duration,
}

impl Asked {
    /// A lease of `ttl`, asked for now.
    #[must_use]
    pub fn now(clock: Arc<dyn Clock>, ttl: Duration) -> Self {
        let at = clock.uptime();
        Self { clock, ttl, at }
    }
}

/// A held lease. `lost` is cancelled as soon as it is known to be gone.
#[derive(Debug)]
pub struct LeaseGuard {
    locks: Arc<dyn LockManager>,
    lease: Lease,
    term: Arc<Term>,
    lost: CancellationToken,
    renewing: JoinSet<()>,
}

/// How long a lease is held.
#[derive(Debug)]
struct Term {
    clock: Arc<dyn Clock>,
    ttl: Duration,
    end: Mutex<End>,
}

#[derive(Debug, Clone, Copy)]
struct End {
    uptime: Duration,
    expires_at: DateTime<Utc>,
}

impl Term {
    /// The lease was granted, or renewed, when it was asked for at `asked_at`.
    fn granted(&self, asked_at: Duration, lease: &Lease) {
        *self.end() = End { uptime: asked_at.saturating_add(self.ttl), expires_at: lease.expires_at };
    }

    fn is_over(&self) -> bool {
        let End { uptime, expires_at } = *self.end();
        self.clock.uptime() >= uptime || self.clock.now() >= expires_at
    }

    fn left(&self) -> Duration {
        self.end().uptime.saturating_sub(self.clock.uptime())
    }

    fn end(&self) -> std::sync::MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LeaseGuard {
    /// Starts to renew `lease`. `lost` must be a token of the job's, which stops at its next safe point.
    #[must_use]
    pub fn hold(locks: Arc<dyn LockManager>, lease: Lease, asked: Asked, lost: CancellationToken) -> Self {
        let Asked { clock, ttl, at } = asked;
        let end = End { uptime: at.saturating_add(ttl), expires_at: lease.expires_at };
        let term = Arc::new(Term { clock, ttl, end: Mutex::new(end) });
        let mut renewing = JoinSet::new();
        renewing.spawn(renew_until_lost(Arc::clone(&locks), lease.clone(), Arc::clone(&term), lost.clone()));
        Self { locks, lease, term, lost, renewing }
    }

    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Whether the lease is gone or has ended, by now.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        if !self.lost.is_cancelled() && self.term.is_over() {
            lose(&self.lease, &self.lost);
        }
        self.lost.is_cancelled()
    }

    /// Gives the lease back. A failure is logged: the lease then expires by itself. Of one that has ended a renewal may have been
    /// written whose answer got lost, so that it stands for others still; but whoever is cut off must not wait long.
    pub async fn release(mut self) {
        self.renewing.shutdown().await;
        if self.is_lost() {
            let _ = tokio::time::timeout(LATE_RELEASE, self.locks.release_lock(&self.lease)).await;
            return;
        }
        match self.locks.release_lock(&self.lease).await {
            Ok(()) => {}
            Err(LockError::Lost { .. }) => {
                debug!(target: LOG, partition = %self.lease.partition, "The lease was already gone when it was released");
            }
            Err(error) => {
                warn!(target: LOG, partition = %self.lease.partition, %error, "The lease could not be released and will expire");
            }
        }
    }
}

fn lose(lease: &Lease, lost: &CancellationToken) {
    warn!(target: LOG, partition = %lease.partition, "The lease was lost, the job stops at the next safe point");
    lost.cancel();
}

async fn renew_until_lost(locks: Arc<dyn LockManager>, mut lease: Lease, term: Arc<Term>, lost: CancellationToken) {
    while !lost.is_cancelled() {
        tokio::time::sleep((term.ttl / RENEWALS_PER_TTL).min(term.left())).await;
        if term.is_over() {
            return lose(&lease, &lost);
        }
        let asked_at = term.clock.uptime();
        // A renewal without an answer must not hide the end.
        match tokio::time::timeout(term.left(), locks.renew(&lease, term.ttl)).await {
            Ok(Ok(renewed)) => {
                term.granted(asked_at, &renewed);
                lease = renewed;
            }
            Ok(Err(LockError::Lost { .. })) => return lose(&lease, &lost),
            // The lease still has time.
            Ok(Err(error)) => {
                warn!(target: LOG, partition = %lease.partition, %error, "The lease could not be renewed");
            }
            Err(_) => warn!(target: LOG, partition = %lease.partition, "The lease could not be renewed: no answer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use chrono::TimeDelta;

    use super::*;
    use crate::clock::ManualClock;
    use crate::compaction::testing::partition;
    use crate::lock::{Acquired, CompactionLock, WorkerId};
    use crate::state::StateDb;

    const TTL: Duration = Duration::from_mins(1);

    /// Locks that answer to a renewal as they are told, or never.
    #[derive(Debug)]
    struct Locks {
        worker_id: WorkerId,
        renewal: fn(&Lease) -> Option<Result<Lease, LockError>>,
    }

    #[async_trait]
    impl LockManager for Locks {
        fn worker_id(&self) -> &WorkerId {
            &self.worker_id
        }

        async fn acquire_lock(&self, _: &crate::partition::PartitionId, _: Duration) -> Result<Acquired, LockError> {
            unreachable!("the lease is held")
        }

        async fn renew(&self, lease: &Lease, _: Duration) -> Result<Lease, LockError> {
            match (self.renewal)(lease) {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }

        /// Where renewals get no answer, neither does this.
        async fn release_lock(&self, lease: &Lease) -> Result<(), LockError> {
            match (self.renewal)(lease) {
                Some(_) => Ok(()),
                None => std::future::pending().await,
            }
        }

        async fn active_locks(&self) -> Result<Vec<Lease>, LockError> {
            Ok(Vec::new())
        }

        async fn cleanup_expired_locks(&self) -> Result<u64, LockError> {
            Ok(0)
        }
    }

    /// Goes with tokio's time; its wall clock is wrong by so much.
    #[derive(Debug)]
    struct TokioClock(tokio::time::Instant, DateTime<Utc>);

    impl Clock for TokioClock {
        fn now(&self) -> DateTime<Utc> {
            self.1 + TimeDelta::from_std(self.uptime()).unwrap()
        }

        fn uptime(&self) -> Duration {
            self.0.elapsed()
        }
    }

    fn hold(clock: Arc<dyn Clock>, renewal: fn(&Lease) -> Option<Result<Lease, LockError>>) -> LeaseGuard {
        let worker_id: WorkerId = "worker".parse().unwrap();
        let now = clock.now();
        let lease = Lease {
            partition: partition(),
            worker_id: worker_id.clone(),
            token: 1,
            locked_at: now,
            expires_at: now + TimeDelta::from_std(TTL).unwrap(),
        };
        let asked = Asked::now(clock, TTL);
        LeaseGuard::hold(Arc::new(Locks { worker_id, renewal }), lease, asked, CancellationToken::new())
    }

    /// Also right after it goes on, before anything else has run.
    #[tokio::test(start_paused = true)]
    async fn a_holder_that_did_not_run_finds_its_lease_ended() {
        let clock = Arc::new(ManualClock::at(DateTime::UNIX_EPOCH + TimeDelta::days(1)));
        let guard = hold(clock.clone(), |_| None);
        clock.advance(TimeDelta::seconds(59));
        assert!(!guard.is_lost());
        clock.advance(TimeDelta::seconds(1));
        assert!(guard.is_lost());
        assert!(guard.lost.is_cancelled(), "what waits for it is told");
        clock.advance(TimeDelta::seconds(-30));
        assert!(guard.is_lost(), "for good");
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_cannot_renew_stops_at_the_end_of_its_time() {
        let failing = |_: &Lease| Some(Err(LockError::BadLease { key: "k".into(), detail: "x".into() }));
        for renewal in [failing as fn(&Lease) -> _, |_| None] {
            let began = tokio::time::Instant::now();
            let guard = hold(Arc::new(TokioClock(began, DateTime::UNIX_EPOCH)), renewal);
            tokio::time::timeout(2 * TTL, guard.lost.cancelled()).await.expect("it is told");
            let took = began.elapsed();
            assert!(took >= TTL && took < TTL + Duration::from_secs(1), "{took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_whose_lease_another_one_has_stops_at_its_next_renewal() {
        let taken =
            |lease: &Lease| Some(Err(LockError::Lost { partition: lease.partition.clone(), token: lease.token }));
        let began = tokio::time::Instant::now();
        let guard = hold(Arc::new(TokioClock(began, DateTime::UNIX_EPOCH)), taken);
        tokio::time::timeout(2 * TTL, guard.lost.cancelled()).await.expect("it is told");
        assert!(began.elapsed() < TTL / 2, "{:?}", began.elapsed());
        assert!(guard.is_lost());
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_lease_is_held_as_long_as_it_is_renewed() {
        let extended =
            |lease: &Lease| Some(Ok(Lease { expires_at: lease.expires_at + TimeDelta::seconds(20), ..lease.clone() }));
        let guard = hold(Arc::new(TokioClock(tokio::time::Instant::now(), DateTime::UNIX_EPOCH)), extended);
        tokio::time::sleep(10 * TTL + Duration::from_secs(1)).await;
        assert!(!guard.is_lost());
        guard.release().await;
    }
    #[tokio::test(start_paused = true)]
    async fn whoever_is_cut_off_does_not_wait_long_to_give_back_a_lease_that_has_ended() {
        let began = tokio::time::Instant::now();
        let guard = hold(Arc::new(TokioClock(began, DateTime::UNIX_EPOCH)), |_| None);
        guard.lost.cancelled().await;
        let ended = tokio::time::Instant::now();
        guard.release().await;
        assert_eq!(ended.elapsed(), LATE_RELEASE);
    }

    /// Two workers on one database of leases, and a guard of the first one whose second renewal was written, but not answered.
    struct TwoWorkers {
        clock: Arc<ManualClock>,
        other: CompactionLock,
        guard: LeaseGuard,
    }

    impl TwoWorkers {
        async fn with_a_renewal_that_was_not_answered() -> Self {
            let clock = Arc::new(ManualClock::at(DateTime::UNIX_EPOCH + TimeDelta::days(1)));
            let state = StateDb::in_memory().unwrap();
            let worker = |name: &str| CompactionLock::for_worker(state.clone(), clock.clone(), name.parse().unwrap());
            let (ours, other) = (Arc::new(worker("ours")), worker("other"));
            let asked = Asked::now(clock.clone(), TTL);
            let Acquired::Yes(lease) = ours.acquire_lock(&partition(), TTL).await.unwrap() else {
                panic!("it is free")
            };
            let guard = LeaseGuard::hold(ours.clone(), lease.clone(), asked, CancellationToken::new());
            clock.advance(TimeDelta::seconds(30));
            ours.renew(&lease, TTL).await.unwrap();
            clock.advance(TimeDelta::seconds(30));
            assert!(guard.is_lost(), "it never heard of the renewal");
            Self { clock, other, guard }
        }
    }

    #[tokio::test]
    async fn a_lease_that_has_ended_for_its_holder_and_stands_for_others_is_given_back() {
        let TwoWorkers { guard, other, .. } = TwoWorkers::with_a_renewal_that_was_not_answered().await;
        assert!(matches!(other.acquire_lock(&partition(), TTL).await.unwrap(), Acquired::HeldBy(_)));
        guard.release().await;
        assert!(matches!(other.acquire_lock(&partition(), TTL).await.unwrap(), Acquired::Yes(_)));
    }

    #[tokio::test]
    async fn a_lease_that_somebody_else_holds_by_now_is_never_given_back() {
        let TwoWorkers { clock, guard, other } = TwoWorkers::with_a_renewal_that_was_not_answered().await;
        clock.advance(TimeDelta::seconds(30));
        let Acquired::Yes(theirs) = other.acquire_lock(&partition(), TTL).await.unwrap() else {
            panic!("the renewal has expired, too");
        };
        guard.release().await;
        assert_eq!(other.active_locks().await.unwrap(), [theirs]);
    }
}
