//! Crashes over a network: a process dies by SIGKILL right before or right after each of its effects. Compare `crash`, which
//! does the same on local files. Small outputs are created in one request; uploads in parts have crashes of their own.
//!
//! The real servers see every crash; the fake sees a third of them, because each is a process, two cycles and a dozen looks.
//! `ARC_OBJECT_STORE_FULL=1` makes it all of them everywhere.

use std::fs;
use std::path::Path;
use std::sync::Arc as Shared;

use arc::compaction::Scope;
use tokio_util::sync::CancellationToken;

use crate::crash::{KillAt, died};
use crate::object_store::remote::{PLAIN, Remote, random_file, telemetry_files};
use crate::support::servers::Kind;
use crate::support::stores::manager;
use crate::support::{again, block_on, each};

const VICTIM: &str = "ARC_TEST_REMOTE_VICTIM";
const FULL: &str = "ARC_OBJECT_STORE_FULL";

/// Where a victim writes down its effects, beside its configuration.
const PASSED: &str = "passed.txt";

/// Not a test of its own: what the dying process runs. Does nothing unless it is started as that.
#[test]
fn victim() {
    let Some(order) = again::asked(VICTIM) else { return };
    let (point, config) = order.split_once(':').unwrap();
    let passed = Path::new(config).with_file_name(PASSED);
    let manager = manager(Path::new(config), Shared::new(KillAt { point: point.parse().unwrap(), passed }));
    block_on(manager.run_compaction_cycle(Scope::default(), CancellationToken::new())).unwrap();
}

/// Starts the victim; `true` if it died on the way, `false` if it came to the end.
fn dies_at(remote: &Remote, point: usize) -> bool {
    let order = format!("{point}:{}", remote.arc.config_file().display());
    died(again::child("object_store::crash::victim").env(VICTIM, order))
}

/// The effects of a run that nobody kills.
fn effects(kind: Kind, settings: &str, files: &[Vec<u8>]) -> Option<Vec<String>> {
    let remote = Remote::with(kind, settings)?;
    remote.put_telemetry(files);
    assert!(!dies_at(&remote, usize::MAX));
    let passed = fs::read_to_string(remote.arc.config_file().with_file_name(PASSED)).unwrap();
    for effect in ["put ", "delete ", "change state"] {
        assert!(passed.lines().any(|line| line.starts_with(effect)), "{kind:?}: no {effect}in {passed}");
    }
    Some(passed.lines().map(ToOwned::to_owned).collect())
}

fn survives_a_crash(kind: Kind, settings: &str, point: usize, files: &[Vec<u8>]) {
    let Some(remote) = Remote::with(kind, settings) else { return };
    remote.put_telemetry(files);
    let before = remote.fingerprint();
    assert!(dies_at(&remote, point), "{kind:?}: nothing happens at point {point}");
    assert_eq!(remote.fingerprint(), before, "{kind:?}: a reader right after a crash at point {point}");
    remote.cycle();
    assert_eq!(remote.fingerprint(), before, "{kind:?}: killed at point {point}");
    let live = remote.live();
    assert!(live.iter().all(|name| name.ends_with("_compacted.parquet")), "{kind:?}: point {point}: {live:?}");
    remote.assert_nothing_left_over();
    let objects = remote.objects();
    remote.cycle();
    assert_eq!(remote.objects(), objects, "{kind:?}: a further run changes nothing (killed at point {point})");
}

/// Every crash point from `first` on, or every third.
fn survives_every(step: usize, first: usize, kind: Kind, settings: &str) {
    let full = again::asked(FULL).is_some_and(|full| full == "1");
    let (first, step) = if full { (0, 1) } else { (first, step) };
    let files = telemetry_files(2, 50);
    let Some(effects) = effects(kind, settings, &files) else { return };
    assert!(effects.len() > 7, "{kind:?}: only {effects:?}: they are not counted");
    each((first..2 * effects.len()).step_by(step), |point| survives_a_crash(kind, settings, point, &files));
}

/// Every crash around the beginning, the parts and the end of an upload.
fn an_upload_survives_every_crash(kind: Kind) {
    let files: Vec<_> = (0..2).map(|number| random_file(number, 100_000)).collect();
    let Some(effects) = effects(kind, PLAIN, &files) else { return };
    let of_upload =
        |effect: &String| ["put_multipart", "put_part", "complete"].iter().any(|part| effect.starts_with(part));
    let numbers: Vec<_> = (0..effects.len()).filter(|number| of_upload(&effects[*number])).collect();
    assert!(numbers.len() > 3, "{kind:?}: not uploaded in parts: {effects:#?}");
    each(numbers.into_iter().flat_map(|number| [2 * number, 2 * number + 1]), |point| {
        survives_a_crash(kind, PLAIN, point, &files);
    });
}

/// I4, I5, T1.
#[test]
fn an_upload_to_moto_survives_a_kill_around_every_part() {
    an_upload_survives_every_crash(Kind::Moto);
}

/// I4, I5, T1.
#[test]
fn an_upload_to_ministack_survives_a_kill_around_every_part() {
    an_upload_survives_every_crash(Kind::Ministack);
}

/// I4, I5, T1.
#[test]
fn an_upload_to_azurite_survives_a_kill_around_every_part() {
    an_upload_survives_every_crash(Kind::Azurite);
}

/// I4, I5.
#[test]
fn a_compaction_on_moto_survives_a_kill_around_every_effect() {
    survives_every(1, 0, Kind::Moto, PLAIN);
}

/// I4, I5.
#[test]
fn a_compaction_on_azurite_survives_a_kill_around_every_effect() {
    survives_every(1, 0, Kind::Azurite, PLAIN);
}

/// I4, I5.
#[test]
fn a_compaction_on_ministack_survives_a_kill_around_every_effect() {
    survives_every(1, 0, Kind::Ministack, PLAIN);
}

/// I4, I5.
#[test]
fn a_compaction_on_the_fake_of_google_survives_a_kill_around_every_third_effect() {
    survives_every(3, 2, Kind::FakeGcs, PLAIN);
}

/// I5: a lease of a dead process of this machine stands in nobody's way, whenever it died.
#[test]
fn a_compaction_with_its_lease_in_the_bucket_survives_a_kill_around_every_effect() {
    survives_every(1, 0, Kind::Moto, &format!("{PLAIN}\nlock_backend = 'storage'"));
}
