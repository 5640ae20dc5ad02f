use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use tokio::sync::Notify;
use tokio::time::{advance, sleep};

use super::*;

const TENTH: Duration = Duration::from_millis(100);

/// Counts looks, and holds each until it is let go.
#[derive(Default, Clone)]
struct Storage {
    begun: Arc<AtomicUsize>,
    go_on: Arc<Notify>,
}

impl Storage {
    async fn look(self) -> usize {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.go_on.notified().await;
        number
    }

    /// A look that takes this long.
    async fn look_for(self, time: Duration) -> usize {
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        sleep(time).await;
        number
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    async fn has_begun(&self, looks: usize) {
        while self.begun() < looks {
            tokio::task::yield_now().await;
        }
    }
}

fn scans() -> Scans<&'static str, usize> {
    Scans::new(|_| 1)
}

/// What a client does: takes what is good enough, or waits for a look that takes so long.
async fn ask(scans: &Scans<&'static str, usize>, version: u64, storage: &Storage, takes: Duration) -> usize {
    let look = || storage.clone().look_for(takes);
    match scans.recent(&"all", version, look) {
        Some(answer) => *answer,
        None => *scans.run("all", version, look()).await.unwrap(),
    }
}

/// Asks until there is a crowd; the number of looks that it took.
async fn crowd(scans: &Scans<&'static str, usize>, storage: &Storage) -> usize {
    for _ in 0..12 {
        ask(scans, 0, storage, TENTH).await;
    }
    storage.begun()
}

#[tokio::test]
async fn clients_that_wait_for_the_same_share_one_look_that_begins_after_they_asked() {
    let (scans, storage) = (scans(), Storage::default());
    let ask = |what| {
        tokio::spawn({
            let (scans, storage) = (scans.clone(), storage.clone());
            async move { *scans.run(what, 0, storage.look()).await.unwrap() }
        })
    };
    let mut running = Vec::new();
    for at_once in 1..=MAX_LOOKS_AT_ONCE {
        running.push(ask("all"));
        storage.has_begun(at_once).await;
    }
    let waiting: Vec<_> = (0..200).map(|_| ask("all")).collect();
    let other = ask("another database");
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(storage.begun(), MAX_LOOKS_AT_ONCE, "the others wait, and none of them takes an older answer");

    // Every permit lets one look go, and nobody waits for it yet.
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
async fn a_look_whose_clients_have_left_before_it_began_is_neither_run_nor_remembered() {
    let (scans, storage) = (scans(), Storage::default());
    let running: Vec<_> = ["one", "two"].map(|what| scans.join(what, 0, storage.clone().look())).into();
    for look in &running {
        assert!(look.clone().now_or_never().is_none());
    }
    storage.has_begun(2).await;
    for _ in 0..100 {
        assert!(scans.run("three", 0, storage.clone().look()).now_or_never().is_none());
    }
    scans.0.lock().tidy(Instant::now());
    assert_eq!(scans.0.lock().wanted.len(), 2, "those that run");
    assert_eq!(storage.begun(), 2);
}

#[tokio::test(start_paused = true)]
async fn without_a_crowd_every_client_gets_a_look_that_began_after_it_asked() {
    let (scans, storage) = (scans(), Storage::default());
    for number in 1..100 {
        assert_eq!(ask(&scans, 0, &storage, TENTH).await, number);
        advance(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_crowd_an_answer_may_be_two_seconds_old_nobody_waits_and_looks_take_an_eleventh_of_the_time() {
    let (scans, storage) = (scans(), Storage::default());
    let begun = crowd(&scans, &storage).await;
    let (mut last, mut last_change) = (0, Instant::now());
    for _ in 0..1000 {
        let before = Instant::now();
        let answer = ask(&scans, 0, &storage, TENTH).await;
        assert_eq!(before, Instant::now(), "nobody waits");
        if answer != last {
            (last, last_change) = (answer, before);
        }
        assert!(last_change.elapsed() <= KEPT);
        sleep(TENTH / 10).await;
    }
    let looks = storage.begun() - begun;
    assert!((8..=10).contains(&looks), "{looks} in ten seconds");
    sleep(KEPT * 10).await;
    let begun = storage.begun();
    assert_eq!(ask(&scans, 0, &storage, TENTH).await, begun + 1, "when the crowd has gone, all is new again");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_how_things_were_before_a_known_change() {
    let (scans, storage) = (scans(), Storage::default());
    let begun = crowd(&scans, &storage).await;
    assert_eq!(ask(&scans, 0, &storage, TENTH).await, begun, "there is a crowd");
    assert_eq!(ask(&scans, 1, &storage, TENTH).await, begun + 1);
    assert_eq!(ask(&scans, 1, &storage, TENTH).await, begun + 1);
    let minute = Duration::from_mins(1);
    assert!(timeout(LONG * 2, ask(&scans, 2, &storage, minute)).await.is_err());
    let under_way = storage.begun();
    assert_eq!(ask(&scans, 3, &storage, minute).await, under_way + 1, "also not by a look that is still under way");
}

#[tokio::test(start_paused = true)]
async fn a_look_that_takes_longer_than_its_client_waits_can_be_had_by_asking_again() {
    let (scans, storage) = (scans(), Storage::default());
    let minute = Duration::from_mins(1);
    let patience = Duration::from_secs(20);
    let mut asked = 0;
    let answer = loop {
        asked += 1;
        match timeout(patience, ask(&scans, 0, &storage, minute)).await {
            Ok(answer) => break answer,
            Err(_) => sleep(Duration::from_secs(5)).await,
        }
    };
    assert_eq!((asked, answer, storage.begun()), (3, 1, 1));
    assert_eq!(ask(&scans, 0, &storage, minute).await, 1, "it serves those who come a little later, too");
    sleep(minute * 3).await;
    let late = timeout(patience, ask(&scans, 0, &storage, minute)).await;
    assert!(late.is_err() && storage.begun() == 2, "but not for ever");
}

#[tokio::test(start_paused = true)]
async fn a_look_that_panics_or_never_ends_is_given_up_and_the_next_one_is_not_affected() {
    let scans = scans();
    assert_eq!(scans.run("all", 0, async { panic!("a bug") }).await, None);
    assert_eq!(scans.run("all", 0, pending()).await, None);
    assert_eq!(scans.run("all", 0, async { 7 }).await.as_deref(), Some(&7));
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_bounded() {
    let scans: Scans<usize, usize> = Scans::new(|_| MAX_KEPT_BYTES / 3);
    for what in 0..100 {
        scans.run(what, 0, async move { what }).await;
    }
    let kept: Vec<usize> =
        scans.0.lock().wanted.iter().filter(|(_, about)| about.kept.is_some()).map(|(what, _)| *what).collect();
    assert_eq!(kept.len(), 3);
    let scans: Scans<usize, usize> = Scans::new(|_| MAX_KEPT_BYTES + 1);
    scans.run(1, 0, async { 1 }).await;
    assert!(scans.recent(&1, 0, || async { 1 }).is_none());
}

#[tokio::test]
async fn the_last_handle_takes_the_running_looks_with_it() {
    let (scans, storage) = (scans(), Storage::default());
    let client = tokio::spawn({
        let (scans, storage) = (scans.clone(), storage.clone());
        async move { scans.run("all", 0, storage.look()).await }
    });
    storage.has_begun(1).await;
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    drop(scans);
    while Arc::strong_count(&storage.begun) > 1 {
        tokio::task::yield_now().await;
    }
}
