//! Crashes over a network: a process dies by SIGKILL right before or right after each of its storage effects, parts of
//! uploads included. Compare `crash`, which does the same on local files.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc as Shared;

use arc::compaction::Scope;
use tokio_util::sync::CancellationToken;

use crate::crash::KillAt;
use crate::object_store::remote::{Remote, telemetry_files};
use crate::support::block_on;
use crate::support::servers::Kind;
use crate::support::stores::manager;

const VICTIM: &str = "ARC_TEST_REMOTE_VICTIM";

/// Not a test of its own: what the dying process runs. Does nothing unless it is started as that.
#[test]
fn victim() {
    #[allow(clippy::disallowed_methods, reason = "how the parent test talks to its child")]
    let Ok(order) = std::env::var(VICTIM) else { return };
    let (point, config) = order.split_once(':').unwrap();
    let manager = manager(
        Path::new(config),
        Shared::new(KillAt { point: point.parse().unwrap(), passed: Path::new(config).with_file_name("passed.txt") }),
    );
    block_on(manager.run_compaction_cycle(Scope::default(), CancellationToken::new())).unwrap();
}

/// Starts the victim; `true` if it died on the way, `false` if it came to the end.
fn dies_at(remote: &Remote, point: usize) -> bool {
    let order = format!("{point}:{}", remote.arc.config_file().display());
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "object_store::crash::victim", "--nocapture"])
        .env(VICTIM, order)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success() || status.code().is_none(), "the victim failed instead of dying: {status}");
    !status.success()
}

fn survives_every_crash(kind: Kind) {
    let files = telemetry_files(2, 50);
    let mut before = None;
    for point in 0.. {
        let Some(remote) = Remote::new(kind) else { return };
        remote.put_telemetry(&files);
        let before = before.get_or_insert_with(|| remote.fingerprint()).clone();
        let died = dies_at(&remote, point);
        assert_eq!(remote.fingerprint(), before, "{kind:?}: a reader right after a crash at point {point}");
        remote.cycle();
        assert_eq!(remote.fingerprint(), before, "{kind:?}: killed at point {point}");
        let live = remote.live();
        assert!(live.iter().all(|name| name.ends_with("_compacted.parquet")), "{kind:?}: point {point}: {live:?}");
        let probes = remote.objects().into_keys().filter(|key| key.starts_with("_compaction_staging/probe-"));
        // A process that dies while it probes leaves the probe, which no reader takes for data.
        for probe in probes {
            let key = object_store::path::Path::parse(probe).unwrap();
            block_on(async { object_store::ObjectStoreExt::delete(&*remote.raw(), &key).await }).unwrap();
            assert!(point < 6, "{kind:?}: only the first effects are the probe's, this was point {point}");
        }
        remote.assert_nothing_left_over();
        let objects = remote.objects();
        remote.cycle();
        assert_eq!(remote.objects(), objects, "{kind:?}: a further run changes nothing (killed at point {point})");
        if !died {
            assert!(point > 14, "{kind:?}: only {point} points: the effects are not counted");
            return;
        }
    }
}

/// I4, I5.
#[test]
fn a_compaction_on_moto_survives_a_kill_around_every_storage_effect() {
    survives_every_crash(Kind::Moto);
}

/// I4, I5.
#[test]
fn a_compaction_on_ministack_survives_a_kill_around_every_storage_effect() {
    survives_every_crash(Kind::Ministack);
}

/// I4, I5.
#[test]
fn a_compaction_on_azurite_survives_a_kill_around_every_storage_effect() {
    survives_every_crash(Kind::Azurite);
}

/// I4, I5.
#[test]
fn a_compaction_on_the_fake_of_google_survives_a_kill_around_every_storage_effect() {
    survives_every_crash(Kind::FakeGcs);
}
