//! Scans of storage for clients: a few at a time, and one for all who wait for the same.
//!
//! ```text
//! scan running   ──────────────┐
//!      client a asks ·· waits ·├─ one scan for a, b and c ──> the same answer
//!        client b asks ·· waits│
//!           client c asks ·· waits
//! ```
//!
//! What must hold: an answer is from a scan that began after it was asked for, so nobody is told how things were before.
//! However many clients ask the same, at most [`MAX_SCANS_AT_ONCE`] scans run and one waits. A scan whose clients have all
//! left ends.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Semaphore;

/// Scans of storage for the API at the same time. More requests wait for their turn.
const MAX_SCANS_AT_ONCE: usize = 2;

type Scan<T> = Shared<BoxFuture<'static, Arc<T>>>;
/// By what they are to find. An entry lives as long as its clients.
type Waiting<K, T> = Mutex<HashMap<K, WeakShared<BoxFuture<'static, Arc<T>>>>>;

/// The scans that run, and the ones that wait, by what they are to find.
#[derive(Debug)]
pub(super) struct Scans<K, T> {
    turns: Arc<Semaphore>,
    /// Scans that have not begun.
    waiting: Arc<Waiting<K, T>>,
}

impl<K, T> Clone for Scans<K, T> {
    fn clone(&self) -> Self {
        Self { turns: Arc::clone(&self.turns), waiting: Arc::clone(&self.waiting) }
    }
}

impl<K, T> Default for Scans<K, T> {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(MAX_SCANS_AT_ONCE)), waiting: Arc::default() }
    }
}

impl<K, T> Scans<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Send + Sync + 'static,
{
    /// What `scan` finds, or another client's scan for the same that has not begun yet.
    pub(super) async fn run(&self, wanted: K, scan: impl Future<Output = T> + Send + 'static) -> Arc<T> {
        self.join(wanted, scan).await
    }

    fn join(&self, wanted: K, scan: impl Future<Output = T> + Send + 'static) -> Scan<T> {
        let mut waiting = lock(&self.waiting);
        // Clients may leave before their scan begins, and choose what they ask for.
        waiting.retain(|_, scan| scan.upgrade().is_some());
        if let Some(scan) = waiting.get(&wanted).and_then(WeakShared::upgrade) {
            return scan;
        }
        let (turns, begun, key) = (Arc::clone(&self.turns), Arc::clone(&self.waiting), wanted.clone());
        let scan = async move {
            let _turn = turns.acquire_owned().await.expect("nobody closes the semaphore");
            // From here on it is too late to join.
            lock(&begun).remove(&key);
            Arc::new(scan.await)
        };
        let scan = scan.boxed().shared();
        waiting.insert(wanted, scan.downgrade().expect("it has not ended"));
        scan
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use tokio::sync::Notify;

    use super::*;

    /// Counts scans, and holds each until it is let go.
    #[derive(Default, Clone)]
    struct Storage {
        begun: Arc<AtomicUsize>,
        go_on: Arc<Notify>,
    }

    impl Storage {
        async fn scan(self) -> usize {
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            self.go_on.notified().await;
            number
        }

        fn begun(&self) -> usize {
            self.begun.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn clients_that_wait_for_the_same_share_one_scan_that_begins_after_they_asked() {
        let (scans, storage) = (Scans::<&str, usize>::default(), Storage::default());
        let ask = |what| {
            tokio::spawn({
                let (scans, storage) = (scans.clone(), storage.clone());
                async move { *scans.run(what, storage.scan()).await }
            })
        };
        let mut running = Vec::new();
        for at_once in 1..=MAX_SCANS_AT_ONCE {
            running.push(ask("all"));
            while storage.begun() < at_once {
                tokio::task::yield_now().await;
            }
        }
        let waiting: Vec<_> = (0..200).map(|_| ask("all")).collect();
        let other = ask("another database");
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(storage.begun(), MAX_SCANS_AT_ONCE, "the others wait, and none of them takes an older answer");

        // Every permit lets one scan go, and nobody waits for it yet.
        let all = async { (join_all(running).await, join_all(waiting).await, other.await.unwrap()) };
        let let_go = async {
            loop {
                storage.go_on.notify_one();
                tokio::task::yield_now().await;
            }
        };
        let (first, shared, other) = tokio::select! {
            answers = all => answers,
            () = let_go => unreachable!(),
        };
        let first: Vec<usize> = first.into_iter().map(Result::unwrap).collect();
        let shared: Vec<usize> = shared.into_iter().map(Result::unwrap).collect();
        assert_eq!(first, [1, 2]);
        assert!(shared.iter().all(|number| *number == shared[0] && *number > 2), "{shared:?}");
        assert!(other > 2 && other != shared[0]);
        assert_eq!(storage.begun(), 4);
    }

    #[tokio::test]
    async fn a_scan_whose_clients_have_left_is_neither_run_nor_remembered() {
        let (scans, storage) = (Scans::<usize, usize>::default(), Storage::default());
        for what in 0..100 {
            // Polled once, so that it waits or runs, and given up.
            assert!(scans.run(what, storage.clone().scan()).now_or_never().is_none());
        }
        assert_eq!(lock(&scans.waiting).len(), 0, "each had its turn at once and was given up in it");
        let held: Vec<_> = (0..MAX_SCANS_AT_ONCE).map(|what| scans.join(what, storage.clone().scan())).collect();
        for scan in &held {
            assert!(scan.clone().now_or_never().is_none());
        }
        for what in 0..100 {
            assert!(scans.run(what, storage.clone().scan()).now_or_never().is_none());
        }
        assert!(lock(&scans.waiting).len() <= 1);
    }
}
