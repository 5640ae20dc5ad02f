use std::collections::HashMap;
use std::fmt;

use chrono::TimeDelta;
use futures::executor::block_on;
use futures::future::join_all;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutPayload,
    PutResult, Result,
};

use super::super::conformance::{self, partition, take};
use super::*;
use crate::clock::ManualClock;

const TTL: Duration = Duration::from_mins(1);
const HOUR: &str = "db/cpu/2025/10/08/14";

/// What happens to the next writes of leases, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is carried out, and the answer gets lost.
    AnswerLost,
    /// It never arrives.
    RequestLost,
}

/// A store in memory with a clock of its own, on a bad wire.
#[derive(Debug)]
struct Store {
    inner: InMemory,
    clock: ManualClock,
    written_at: Mutex<HashMap<Path, DateTime<Utc>>>,
    fates: Mutex<Vec<Fate>>,
    /// How many reads are answered before none is.
    reads: Mutex<usize>,
}

/// What a store says, which quotes the request.
const QUOTING: &str = "Error performing PUT http://x/y in 3ms - Server returned non-2xx status code: 503 Busy: \
    <Error><Code>SlowDown</Code><AWSAccessKeyId>AKIAQUOTED</AWSAccessKeyId><StringToSign>QUOTED</StringToSign></Error>";

fn no_answer() -> Error {
    Error::Generic { store: "test", source: QUOTING.into() }
}

impl Store {
    fn new() -> Arc<Self> {
        let clock = ManualClock::at("2025-10-08T16:00:00Z".parse().unwrap());
        Arc::new(Self {
            inner: InMemory::new(),
            clock,
            written_at: Mutex::default(),
            fates: Mutex::default(),
            reads: Mutex::new(usize::MAX),
        })
    }

    fn worker(self: &Arc<Self>, name: &str, clock: &Arc<ManualClock>) -> StorageLocks {
        StorageLocks::for_worker(&Storage::over(self.clone(), "s3://b"), clock.clone(), name.parse().unwrap())
    }

    fn stamp(&self, mut meta: ObjectMeta) -> ObjectMeta {
        meta.last_modified = self.written_at.lock().unwrap()[&meta.location];
        meta
    }

    /// What lies at the partition's key.
    fn raw(&self, partition: &PartitionId) -> String {
        let key = key_of(partition).unwrap();
        let bytes = block_on(async { self.inner.get(&key).await?.bytes().await }).unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store with a clock")
    }
}

#[async_trait]
impl ObjectStore for Store {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let fate = self.fates.lock().unwrap().pop();
        if fate == Some(Fate::RequestLost) {
            return Err(no_answer());
        }
        let put = self.inner.put_opts(location, payload, opts).await?;
        self.written_at.lock().unwrap().insert(location.clone(), self.clock.now());
        if fate == Some(Fate::AnswerLost) { Err(no_answer()) } else { Ok(put) }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        {
            let mut left = self.reads.lock().unwrap();
            *left = left.checked_sub(1).ok_or_else(no_answer)?;
        }
        let mut found = self.inner.get_opts(location, options).await?;
        found.meta = self.stamp(found.meta);
        // Whoever reads at the same time has read before anybody writes.
        tokio::task::yield_now().await;
        Ok(found)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        unreachable!("leases are small")
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        unreachable!("leases are never deleted")
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        unreachable!("leases are listed flat")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        unreachable!("leases are not copied")
    }
}

fn clock(time: &str) -> Arc<ManualClock> {
    Arc::new(ManualClock::at(time.parse().unwrap()))
}

/// The clock that most tests need one of.
fn noon() -> Arc<ManualClock> {
    clock("2025-10-08T12:00:00Z")
}

fn assert_lost<T: fmt::Debug>(result: &std::result::Result<T, LockError>) {
    assert!(matches!(result, Err(LockError::Lost { .. })), "{result:?}");
}

#[test]
fn leases_in_storage_conform() {
    let clock = noon();
    block_on(conformance::check(&Store::new().worker("a worker", &clock), &clock));
}

/// However wrong the clocks of the machines are: the holder's counts from its own beginning, and for everybody else the
/// store's clock counts. The holder has always stopped by then.
#[test]
fn a_lease_of_another_machine_is_over_when_the_clock_of_the_store_says_so() {
    for holders in ["2025-10-08T16:00:00Z", "2025-10-08T03:00:00Z", "2031-01-01T00:00:00Z"] {
        // What is slow waits longer; that is another test.
        for takers in ["2025-10-08T16:00:00Z", "2025-10-08T21:00:00Z", "2031-01-01T00:00:00Z"] {
            let (store, holders, takers) = (Store::new(), clock(holders), clock(takers));
            let (holder, taker) = (store.worker("holder", &holders), store.worker("taker", &takers));
            let pass = |seconds| {
                for clock in [&store.clock, &*holders, &*takers] {
                    clock.advance(TimeDelta::seconds(seconds));
                }
            };
            let hour = partition(HOUR);
            let lease = block_on(take(&holder, &hour));
            pass(30);
            let lease = block_on(holder.renew(&lease, TTL)).unwrap();
            pass(64);
            let answer = block_on(taker.acquire_lock(&hour, TTL)).unwrap();
            assert_eq!(answer, Acquired::HeldBy(lease.clone()), "a second before the slack is over");
            pass(1);
            let next = block_on(take(&taker, &hour));
            assert!(next.token > lease.token);
            assert_lost(&block_on(holder.renew(&lease, TTL)));
            assert_lost(&block_on(holder.release_lock(&lease)));
            assert_eq!(block_on(taker.active_locks()).unwrap(), std::slice::from_ref(&next));
            block_on(taker.release_lock(&next)).unwrap();
        }
    }
}

#[test]
fn a_worker_whose_clock_is_slow_takes_over_late_and_asks_nothing() {
    let (store, holders, takers) = (Store::new(), noon(), clock("2025-10-08T15:00:00Z"));
    let (holder, taker) = (store.worker("holder", &holders), store.worker("taker", &takers));
    let hour = partition(HOUR);
    let lease = block_on(take(&holder, &hour));
    store.clock.advance(TimeDelta::minutes(10));
    takers.advance(TimeDelta::minutes(10));
    assert_eq!(block_on(taker.acquire_lock(&hour, TTL)).unwrap(), Acquired::HeldBy(lease));
    assert!(!store.written_at.lock().unwrap().contains_key(&Path::from(CLOCK)), "it did not ask for the time");
    takers.advance(TimeDelta::hours(1));
    block_on(take(&taker, &hour));
}

/// A holder that wakes up and finds its lease expired, by its own clock, but taken by nobody, does not get it back.
#[test]
fn a_holder_that_slept_past_its_lease_has_lost_it() {
    let (store, clock) = (Store::new(), noon());
    let holder = store.worker("holder", &clock);
    let lease = block_on(take(&holder, &partition(HOUR)));
    clock.advance(TimeDelta::seconds(60));
    assert_lost(&block_on(holder.renew(&lease, TTL)));
    assert_eq!(block_on(holder.active_locks()).unwrap(), []);
    let next = block_on(take(&holder, &partition(HOUR)));
    assert!(next.token > lease.token, "but it may take it anew at once");
}

#[test]
fn a_dead_process_of_this_machine_is_succeeded_at_once() {
    let (store, clock) = (Store::new(), noon());
    let this = WorkerId::of_this_process().to_string();
    let (machine, _) = this.split_once(':').unwrap();
    // The number of this process with another start time.
    let dead = store.worker(&format!("{machine}:{}:1:0", std::process::id()), &clock);
    let lease = block_on(take(&dead, &partition(HOUR)));
    let next = block_on(take(&store.worker("other", &clock), &partition(HOUR)));
    assert!(next.token > lease.token);
}

#[test]
fn a_lost_answer_or_request_changes_nothing_about_the_outcome() {
    use Fate::{AnswerLost, RequestLost};
    for fates in [&[AnswerLost][..], &[RequestLost], &[RequestLost, RequestLost, AnswerLost], &[RequestLost; 4]] {
        let (store, clock) = (Store::new(), noon());
        let (worker, other) = (store.worker("worker", &clock), store.worker("other", &clock));
        let hour = partition(HOUR);
        let badly = || *store.fates.lock().unwrap() = fates.iter().rev().copied().collect();
        for round in 0..2 {
            badly();
            let lease = block_on(take(&worker, &hour));
            assert_eq!(block_on(other.acquire_lock(&hour, TTL)).unwrap(), Acquired::HeldBy(lease.clone()));
            clock.advance(TimeDelta::seconds(10));
            badly();
            let renewed = block_on(worker.renew(&lease, TTL)).unwrap();
            assert_eq!(
                block_on(other.active_locks()).unwrap(),
                std::slice::from_ref(&renewed),
                "{fates:?}, round {round}"
            );
            badly();
            block_on(worker.release_lock(&renewed)).unwrap();
            assert_eq!(store.raw(&hour), format!(r#"{{"state":"released","token":{}}}"#, lease.token));
        }
    }
}

#[test]
fn a_store_that_takes_no_write_is_said_by_its_key() {
    let (store, clock) = (Store::new(), noon());
    let worker = store.worker("worker", &clock);
    *store.fates.lock().unwrap() = vec![Fate::RequestLost; 100];
    let error = block_on(worker.acquire_lock(&partition(HOUR), TTL)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a lease could not be written: s3://b/_compaction_locks/db/cpu/2025/10/08/14.json: storage failed: the store \
         answered 503 Busy (SlowDown); the next cycle tries again"
    );
    assert_eq!(store.fates.lock().unwrap().len(), 100 - ROUNDS, "it is not tried for ever");
}

/// T65: stores quote key ids and what was signed. Every operation that may fail is asked.
#[test]
fn nothing_that_a_store_quotes_is_passed_on() {
    let (store, clock) = (Store::new(), noon());
    let worker = store.worker("worker", &clock);
    let hour = partition(HOUR);
    let lease = block_on(take(&worker, &hour));
    let shown = |error: LockError| {
        let shown = format!("{error} {error:?} {}", error.without_store_words());
        assert!(!shown.contains("QUOTED") && shown.contains("503 Busy (SlowDown)"), "{shown}");
    };
    *store.fates.lock().unwrap() = vec![Fate::RequestLost; 100];
    shown(block_on(worker.renew(&lease, Duration::from_hours(1))).unwrap_err());
    shown(block_on(worker.release_lock(&lease)).unwrap_err());
    shown(block_on(worker.acquire_lock(&partition("db/mem/2025/10/08/14"), TTL)).unwrap_err());
    *store.reads.lock().unwrap() = 0;
    shown(block_on(worker.acquire_lock(&hour, TTL)).unwrap_err());
    shown(block_on(worker.renew(&lease, TTL)).unwrap_err());
    shown(block_on(worker.active_locks()).unwrap_err());
    clock.advance(TimeDelta::hours(1));
    shown(block_on(worker.cleanup_expired_locks()).unwrap_err());
}

#[test]
fn an_acquisition_whose_last_answer_got_lost_is_recognised() {
    let (store, clock) = (Store::new(), noon());
    let (worker, other) = (store.worker("worker", &clock), store.worker("other", &clock));
    let hour = partition(HOUR);
    // The last of the rounds is the one that arrives.
    let mut fates = vec![Fate::AnswerLost];
    fates.extend([Fate::RequestLost; ROUNDS - 1]);
    *store.fates.lock().unwrap() = fates;
    let lease = block_on(take(&worker, &hour));
    assert_eq!(block_on(other.acquire_lock(&hour, TTL)).unwrap(), Acquired::HeldBy(lease));
}

/// The answer to the write gets lost, and so does the look at what became of it.
#[test]
fn an_acquisition_that_nobody_knows_of_holds_nothing_up() {
    let lost = |store: &Arc<Store>, worker: &StorageLocks| {
        *store.fates.lock().unwrap() = vec![Fate::AnswerLost];
        *store.reads.lock().unwrap() = 1;
        block_on(worker.acquire_lock(&partition(HOUR), TTL)).unwrap_err();
        *store.reads.lock().unwrap() = usize::MAX;
        assert!(store.raw(&partition(HOUR)).contains("held"), "it was written");
    };
    let (store, clock) = (Store::new(), noon());
    let (worker, other) = (store.worker("worker", &clock), store.worker("other", &clock));
    lost(&store, &worker);
    let lease = block_on(take(&worker, &partition(HOUR)));
    assert!(
        matches!(block_on(worker.acquire_lock(&partition(HOUR), TTL)), Ok(Acquired::HeldBy(held)) if held == lease)
    );
    block_on(worker.release_lock(&lease)).unwrap();

    lost(&store, &worker);
    assert!(matches!(block_on(other.acquire_lock(&partition(HOUR), TTL)), Ok(Acquired::HeldBy(_))));
    assert_eq!(block_on(worker.cleanup_expired_locks()).unwrap(), 1, "the beginning of the next cycle gives it up");
    block_on(take(&other, &partition(HOUR)));
    assert_eq!(block_on(worker.cleanup_expired_locks()).unwrap(), 0);
}

/// The same for a caller that stopped waiting while the request was under way, and a request that arrives after a cleanup.
#[test]
fn an_acquisition_whose_caller_went_away_holds_nothing_up() {
    let (store, clock) = (Store::new(), noon());
    let worker = store.worker("worker", &clock);
    let hour = partition(HOUR);
    let acquisition = {
        let ends_at = clock.now() + TimeDelta::hours(1);
        let pending = Pending { locks: &worker, partition: &hour, acquisition: 7, ends_at, was_sent: true };
        pending.acquisition
    };
    assert_eq!(block_on(worker.cleanup_expired_locks()).unwrap(), 0, "nothing has been written yet");
    let lease = Lease {
        partition: hour.clone(),
        worker_id: worker.worker_id().clone(),
        token: 3,
        locked_at: clock.now(),
        expires_at: clock.now() + TimeDelta::hours(1),
    };
    block_on(worker.swap(&key_of(&hour).unwrap(), None, &Entry::Held(Held::of(&lease, acquisition)))).unwrap();
    assert!(block_on(take(&worker, &hour)).token > lease.token);
}

/// Also workers of one name, as two handles of one process are. In one thread: all have read before the first one writes.
#[tokio::test]
async fn of_many_workers_racing_for_a_partition_one_gets_it() {
    for names in [["same"; 8], ["a", "b", "c", "d", "e", "f", "g", "h"]] {
        let (store, clock) = (Store::new(), noon());
        for round in 1..=20 {
            let races = names.map(|name| {
                let worker = store.worker(name, &clock);
                tokio::spawn(async move {
                    let acquired = worker.acquire_lock(&partition(HOUR), TTL).await.unwrap();
                    (worker, acquired)
                })
            });
            let mut won = Vec::new();
            for ended in join_all(races).await {
                if let (worker, Acquired::Yes(lease)) = ended.unwrap() {
                    won.push((worker, lease));
                }
            }
            assert_eq!(won.len(), 1, "round {round}");
            let (worker, lease) = won.pop().unwrap();
            assert_eq!(lease.token, round, "tokens of a partition grow by one where one worker follows another");
            worker.release_lock(&lease).await.unwrap();
        }
    }
}

#[test]
fn what_is_no_lease_is_named_with_the_remedy_and_left_alone() {
    let (store, clock) = (Store::new(), noon());
    let worker = store.worker("worker", &clock);
    let hour = partition(HOUR);
    for bad in [
        "",
        "{}",
        "[]",
        r#"{"state":"lent","token":1}"#,
        r#"{"state":"released","token":-1}"#,
        r#"{"state":"released","token":18446744073709551615}"#,
        r#"{"state":"held","partition":"db/cpu/2025/10/08/15","worker_id":"w","token":1,"locked_at":"2025-10-08T16:00:00Z",
            "expires_at":"2025-10-08T16:00:00Z","ttl_seconds":1,"acquisition":1}"#,
    ] {
        block_on(store.put(&key_of(&hour).unwrap(), bad.into())).unwrap();
        let error = block_on(worker.acquire_lock(&hour, TTL)).unwrap_err().to_string();
        assert!(error.starts_with("_compaction_locks/db/cpu/2025/10/08/14.json is no lease ("), "{error}");
        assert!(error.contains("delete it"), "{error}");
        assert_eq!(store.raw(&hour), bad);
    }
}

/// A listing tells them apart by their size alone.
#[test]
fn a_released_lease_is_smaller_than_any_held_one() {
    let released = Entry::Released { token: u64::MAX >> 1 }.to_bytes().len() as u64;
    assert!(released <= MAX_RELEASED_BYTES, "{released}");
    let smallest = Lease {
        partition: partition("a/b/2025/10/08/14"),
        worker_id: "w".parse().unwrap(),
        token: 1,
        locked_at: DateTime::UNIX_EPOCH,
        expires_at: DateTime::UNIX_EPOCH,
    };
    let held = Entry::Held(Held::of(&smallest, 0)).to_bytes().len() as u64;
    assert!(held > 2 * MAX_RELEASED_BYTES, "{held}");
}

#[test]
fn only_the_keys_of_partitions_are_leases() {
    for path in ["a/b/2025/10/08/14", "it's/\"x\"/2025/10/08/14", "%/größe/2025/10/08/14"] {
        assert_eq!(partition_of(&key_of(&partition(path)).unwrap()), Some(partition(path)));
    }
    for other in
        [CLOCK, "_compaction_locks/a/b/2025/10/08/14", "_compaction_locks/a/b/2025/10/08/14.json/x", "x/y.json"]
    {
        assert_eq!(partition_of(&Path::parse(other).unwrap()), None, "{other}");
    }
}
