//! Looks through storage for clients: few at a time, one for all who wait for the same, and not more often than is worth it.
//!
//! ```text
//!                        ┌─ kept from a moment ago ──────────────────────────────> answer     (only while there is a crowd)
//!  client asks ── crowd? ┤                                                            ^
//!                        └─ waits for a turn, ── a task of its own looks ── kept ─────┘
//!                           with all who ask the same meanwhile
//! ```
//!
//! What must hold:
//! - As long as looks take up less than their share of the time ([`Crowd`]), an answer is from a look that began after it was
//!   asked for. In a crowd, and after a long look, it may be older: kept for [`KEPT`] after it was found, or for twice as long as
//!   the look took. It is never from before the last change that the caller knows of (its `version`).
//! - At most [`MAX_LOOKS_AT_ONCE`] looks run. Those for the same thing take half of the time of one of them at the very most when
//!   there is a crowd, however many clients ask; if a look takes a tenth of a second, an eleventh.
//! - A look that has begun goes on when its clients have given up, so that one that takes longer than any client waits can be
//!   had by asking again: whoever asks for the same joins it. One that has not begun ends with its last client.
//! - What is kept has a bound, [`MAX_KEPT_BYTES`]. Dropping the last handle ends all looks.

mod crowd;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use self::crowd::Crowd;

/// Looks at the same time. More requests wait for their turn.
const MAX_LOOKS_AT_ONCE: usize = 2;
/// How long an answer can serve others, at least.
const KEPT: Duration = Duration::from_secs(2);
/// The same, at most.
const LONGEST_KEPT: Duration = Duration::from_mins(5);
/// A look that takes longer is joined by whoever asks for the same, and its answer serves others also without a crowd.
const LONG: Duration = Duration::from_secs(10);
/// A look that takes longer than this is given up.
const LONGEST: Duration = Duration::from_mins(15);
/// What is kept of all answers together.
const MAX_KEPT_BYTES: usize = 8 * 1024 * 1024;

/// What a look will have found; `None` when it was given up or has panicked.
type Look<T> = Shared<BoxFuture<'static, Option<Arc<T>>>>;
type WeakLook<T> = WeakShared<BoxFuture<'static, Option<Arc<T>>>>;

/// The looks that wait, those that run, and what the last ones found, by what was wanted.
pub(super) struct Scans<K, T>(Arc<Inner<K, T>>);

struct Inner<K, T> {
    turns: Arc<Semaphore>,
    /// The bytes of an answer.
    size_of: fn(&T) -> usize,
    state: Mutex<State<K, T>>,
}

struct State<K, T> {
    wanted: HashMap<K, Wanted<T>>,
    crowd: Crowd,
    tasks: JoinSet<()>,
}

/// All about one thing that is wanted.
struct Wanted<T> {
    waiting: Option<WeakLook<T>>,
    running: Option<Running<T>>,
    kept: Option<Kept<T>>,
}

struct Running<T> {
    began: Instant,
    version: u64,
    task: AbortHandle,
    look: Look<T>,
}

struct Kept<T> {
    answer: Arc<T>,
    version: u64,
    /// From here on it is time for another look, if anybody still asks.
    refresh: Instant,
    until: Instant,
    took_long: bool,
}

impl<T> Default for Wanted<T> {
    fn default() -> Self {
        Self { waiting: None, running: None, kept: None }
    }
}

impl<T> Wanted<T> {
    fn is_running(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.task.is_finished())
    }

    fn is_waiting(&self) -> bool {
        self.waiting.as_ref().is_some_and(|look| look.upgrade().is_some())
    }
}

impl<K, T> Clone for Scans<K, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, T> fmt::Debug for Scans<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scans")
    }
}

impl<K, T> Scans<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Send + Sync + 'static,
{
    pub(super) fn new(size_of: fn(&T) -> usize) -> Self {
        let state = State { wanted: HashMap::new(), crowd: Crowd::default(), tasks: JoinSet::new() };
        let turns = Arc::new(Semaphore::new(MAX_LOOKS_AT_ONCE));
        Self(Arc::new(Inner { turns, size_of, state: Mutex::new(state) }))
    }

    /// What was found a moment ago, if that is good enough now. When it soon will not be, `scan` begins, for those who come
    /// later.
    pub(super) fn recent<F>(&self, wanted: &K, version: u64, scan: impl FnOnce() -> F) -> Option<Arc<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let now = Instant::now();
        let mut state = self.0.lock();
        let is_crowded = state.crowd.is_there(now);
        let about = state.wanted.get(wanted)?;
        let is_under_way = about.is_running() || about.is_waiting();
        let kept = about.kept.as_ref().filter(|kept| kept.version == version && now < kept.until)?;
        if !(is_crowded || kept.took_long) {
            return None;
        }
        let answer = Arc::clone(&kept.answer);
        if now >= kept.refresh
            && !is_under_way
            && let Ok(turn) = Arc::clone(&self.0.turns).try_acquire_owned()
        {
            let _for_those_who_come_later = self.0.begin(&mut state, wanted.clone(), version, turn, scan());
        }
        Some(answer)
    }

    /// What `scan` finds, or another client's look for the same that has not begun yet, or has begun so long ago that this
    /// client may be the one that it was for. `None`: it was given up.
    pub(super) async fn run(
        &self,
        wanted: K,
        version: u64,
        scan: impl Future<Output = T> + Send + 'static,
    ) -> Option<Arc<T>> {
        self.join(wanted, version, scan).await
    }

    fn join(&self, wanted: K, version: u64, scan: impl Future<Output = T> + Send + 'static) -> Look<T> {
        let mut state = self.0.lock();
        state.tidy(Instant::now());
        let about = state.wanted.entry(wanted.clone()).or_default();
        if let Some(running) = &about.running
            && about.is_running()
            && running.began.elapsed() >= LONG
            && running.version == version
        {
            return running.look.clone();
        }
        if let Some(waiting) = about.waiting.as_ref().and_then(WeakShared::upgrade) {
            return waiting;
        }
        let inner = Arc::clone(&self.0);
        let look = async move {
            let turn = Arc::clone(&inner.turns).acquire_owned().await.expect("nobody closes the semaphore");
            let look = {
                let mut state = inner.lock();
                // From here on it is too late to join.
                if let Some(about) = state.wanted.get_mut(&wanted) {
                    about.waiting = None;
                }
                inner.begin(&mut state, wanted, version, turn, scan)
            };
            // What waits for the answer must not keep the looks alive: they end with their last handle.
            drop(inner);
            look.await
        };
        let look = look.boxed().shared();
        about.waiting = look.downgrade();
        look
    }
}

impl<K, T> Inner<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Send + Sync + 'static,
{
    fn begin(
        self: &Arc<Self>,
        state: &mut State<K, T>,
        wanted: K,
        version: u64,
        turn: OwnedSemaphorePermit,
        scan: impl Future<Output = T> + Send + 'static,
    ) -> Look<T> {
        while state.tasks.try_join_next().is_some() {}
        let (tell, told) = oneshot::channel();
        let look = told.map(Result::ok).boxed().shared();
        let (began, inner, key) = (Instant::now(), Arc::downgrade(self), wanted.clone());
        let task = state.tasks.spawn(async move {
            let _turn = turn;
            let Ok(found) = timeout(LONGEST, scan).await else { return };
            let found = Arc::new(found);
            if let Some(inner) = Weak::upgrade(&inner) {
                inner.keep(key, version, began, &found);
            }
            // Nobody may be waiting any more.
            let _ = tell.send(found);
        });
        state.wanted.entry(wanted).or_default().running = Some(Running { began, version, task, look: look.clone() });
        look
    }

    fn keep(&self, wanted: K, version: u64, began: Instant, answer: &Arc<T>) {
        let now = Instant::now();
        let took = now - began;
        let mut state = self.lock();
        state.crowd.spent(took, now);
        state.tidy(now);
        let size = (self.size_of)(answer);
        if size > MAX_KEPT_BYTES {
            return;
        }
        while state.kept_bytes(self.size_of) + size > MAX_KEPT_BYTES && state.forget_oldest() {}
        let keep = (took * 2).clamp(KEPT, LONGEST_KEPT);
        let about = state.wanted.entry(wanted).or_default();
        let (refresh, until, took_long) = (now + keep / 2, now + keep, took >= LONG);
        about.kept = Some(Kept { answer: Arc::clone(answer), version, refresh, until, took_long });
    }
}

impl<K, T> Inner<K, T> {
    fn lock(&self) -> MutexGuard<'_, State<K, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash, T> State<K, T> {
    /// Forgets what is of no more use. Clients choose what they ask for, and may leave before a look begins.
    fn tidy(&mut self, now: Instant) {
        self.wanted.retain(|_, about| {
            about.kept.take_if(|kept| kept.until <= now);
            about.kept.is_some() || about.is_running() || about.is_waiting()
        });
    }

    fn kept_bytes(&self, size_of: fn(&T) -> usize) -> usize {
        self.wanted.values().filter_map(|about| about.kept.as_ref()).map(|kept| size_of(&kept.answer)).sum()
    }

    /// Whether there was anything to forget.
    fn forget_oldest(&mut self) -> bool {
        let kept = self.wanted.values_mut().filter(|about| about.kept.is_some());
        let oldest = kept.min_by_key(|about| about.kept.as_ref().map(|kept| kept.until));
        oldest.is_some_and(|about| about.kept.take().is_some())
    }
}
