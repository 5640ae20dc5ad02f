//! A bad wire between the service and a server: whatever happens to a request, no row is lost or doubled, and what passes
//! by itself is waited out.

use std::sync::Arc as Shared;
use std::sync::Mutex;
use std::time::Duration;

use arc::compaction::CycleReport;
use arc::storage::StorageError;
use arc::storage::settings::Patience;

use crate::object_store::remote::{NoHook, Remote, telemetry_files};
use crate::support::block_on;
use crate::support::each;
use crate::support::http1::Head;
use crate::support::proxy::{Proxy, Wire};
use crate::support::servers::Kind;

/// Repeats at once.
fn hasty() -> Patience {
    Patience { retries: 3, first_pause: Duration::from_millis(1), ..Patience::default() }
}

/// A cycle with this between the service and the server; how many requests it made.
fn cycle(remote: &Remote, plan: impl Fn(usize, &Head) -> Wire + Send + Sync + 'static) -> (CycleReport, usize) {
    cycle_with(&hasty(), remote, plan)
}

fn cycle_with(
    patience: &Patience,
    remote: &Remote,
    plan: impl Fn(usize, &Head) -> Wire + Send + Sync + 'static,
) -> (CycleReport, usize) {
    let proxy = Proxy::start(&remote.bucket.address, plan);
    let storage = remote.bucket.through(&proxy.address).patient(patience);
    let report = remote.cycle_through(storage, Shared::new(NoHook));
    (report, proxy.requests())
}

/// Each request of a compaction suffers once, in a run of its own, and the run after it finds everything in order.
fn any_one_request_may_suffer(wire: Wire, must_be_waited_out: bool) {
    let Some(well) = Remote::new(Kind::Moto) else { return };
    let files = telemetry_files(2, 50);
    well.put_telemetry(&files);
    let (_, requests) = cycle(&well, |_, _| Wire::Good);
    assert!(requests > 12, "only {requests} requests: they are not counted");
    each(0..requests, |at| {
        let Some(remote) = Remote::new(Kind::Moto) else { return };
        remote.put_telemetry(&files);
        let before = remote.fingerprint();
        let (report, _) = cycle(&remote, move |number, _| if number == at { wire } else { Wire::Good });
        assert_eq!(remote.fingerprint(), before, "{wire:?} at request {at}: {report:#?}");
        if must_be_waited_out {
            assert_eq!((report.jobs_completed, report.problems.len()), (1, 0), "{wire:?} at request {at}: {report:#?}");
        }
        remote.cycle();
        assert_eq!(remote.fingerprint(), before, "{wire:?} at request {at}");
        assert_eq!(remote.live().len(), 1, "{wire:?} at request {at}: all is compacted");
        remote.assert_nothing_left_over();
    });
}

/// T19, T20, I12.
#[test]
fn an_answer_that_gets_lost_on_any_request_loses_and_doubles_nothing() {
    any_one_request_may_suffer(Wire::LosesTheAnswer, false);
}

#[test]
fn a_connection_that_is_reset_before_any_request_loses_and_doubles_nothing() {
    any_one_request_may_suffer(Wire::Reset, false);
}

/// T20: a create that was answered 503 is repeated by the client.
#[test]
fn a_server_that_is_busy_on_any_request_is_waited_for() {
    any_one_request_may_suffer(Wire::Answers(503), true);
}

#[test]
fn an_answer_that_is_cut_short_on_any_request_loses_and_doubles_nothing() {
    any_one_request_may_suffer(Wire::Truncated(20), false);
}

/// I11: nobody waits for ever.
#[test]
fn a_server_that_stops_answering_ends_the_cycle_and_the_next_one_goes_well() {
    let Some(remote) = Remote::new(Kind::Moto) else { return };
    remote.write_telemetry(2, 50);
    let before = remote.fingerprint();
    let patience = Patience { stall: Duration::from_secs(1), ..hasty() };
    let (report, _) = cycle_with(&patience, &remote, |number, _| if number < 8 { Wire::Good } else { Wire::Stalls });
    assert_eq!(report.jobs_completed, 0, "{report:#?}");
    assert!(report.needs_attention(), "{report:#?}");
    assert_eq!(remote.fingerprint(), before);
    remote.cycle_through(remote.storage(), Shared::new(NoHook));
    remote.cycle();
    assert_eq!(remote.fingerprint(), before);
    assert_eq!(remote.live().len(), 1);
}

#[test]
fn bursts_of_refusals_and_a_slow_server_cost_time_and_nothing_else() {
    for kind in [Kind::Moto, Kind::Azurite] {
        let Some(remote) = Remote::new(kind) else { continue };
        remote.write_telemetry(4, 500);
        let before = remote.fingerprint();
        let (report, requests) = cycle(&remote, |number, _| match number % 9 {
            0..3 => Wire::Answers(503),
            3 => Wire::Delayed(Duration::from_millis(200)),
            _ => Wire::Good,
        });
        assert_eq!((report.jobs_completed, report.jobs_failed), (1, 0), "{kind:?}: {report:#?}");
        assert!(requests > 20, "{kind:?}: {requests}");
        assert_eq!(remote.fingerprint(), before, "{kind:?}");
        remote.assert_nothing_left_over();
    }
}

/// A download whose connection breaks goes on where it was, and is whole.
#[test]
fn a_download_that_breaks_goes_on_where_it_was() {
    let Some(remote) = Remote::new(Kind::Moto) else { return };
    let content: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    remote.put(crate::support::PARTITION, "large.parquet", content.clone());
    let ranges = Shared::new(Mutex::new(Vec::new()));
    let seen = Shared::clone(&ranges);
    let proxy = Proxy::start(&remote.bucket.address, move |_, request| {
        if request.method() != "GET" || !request.target().contains("large.parquet") {
            return Wire::Good;
        }
        let mut seen = seen.lock().unwrap();
        seen.push(request.header("range").map(ToOwned::to_owned));
        if seen.len() < 3 { Wire::Truncated(1_000_000) } else { Wire::Good }
    });
    let storage = remote.bucket.through(&proxy.address).patient(&hasty());
    let partition = crate::support::PARTITION.parse().unwrap();
    let read = block_on(storage.read_back(&partition, "large.parquet")).unwrap();
    assert_eq!(read.checksum, format!("blake3:{}", blake3::hash(&content).to_hex()));
    let ranges = ranges.lock().unwrap().clone();
    assert_eq!(ranges.len(), 3);
    assert_eq!(ranges[0], None);
    assert_eq!(ranges[1].as_deref(), Some("bytes=1000000-3999999"));
}

#[test]
fn repetitions_have_an_end() {
    let Some(remote) = Remote::new(Kind::Moto) else { return };
    let proxy = Proxy::start(&remote.bucket.address, |_, _| Wire::Answers(503));
    let storage = remote.bucket.through(&proxy.address).patient(&hasty());
    let error = block_on(storage.databases()).unwrap_err();
    assert!(matches!(error, StorageError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("503") && error.to_string().contains("SlowDown"), "{error}");
    assert_eq!(proxy.requests(), 4, "the first and three repetitions");
}
