//! Compaction end to end on real servers: the same promises as on local files.

use std::process::Stdio;
use std::sync::Arc as Shared;

use object_store::ObjectStoreExt;
use object_store::path::Path;

use crate::object_store::remote::{NoHook, Remote};
use crate::support::servers::Kind;
use crate::support::{PARTITION, Run, block_on, telemetry};

/// I1, I2, I5, I6: with the real program, merging in a child process.
#[test]
fn a_compaction_keeps_every_row_and_a_second_one_changes_nothing() {
    Remote::everywhere(|remote| {
        let kind = remote.bucket.kind;
        remote.write_telemetry(5, 2_000);
        let rows = remote.rows();
        let report = remote.compact_well();
        assert_eq!(
            (&report["jobs_completed"], &report["files_compacted"]),
            (&1.into(), &5.into()),
            "{kind:?}: {report:#}"
        );
        let live = remote.live();
        assert_eq!(live.len(), 1, "{kind:?}: {live:?}");
        assert!(live[0].ends_with("_compacted.parquet"), "{kind:?}: {live:?}");
        assert_eq!(remote.rows(), rows, "{kind:?}");
        remote.assert_nothing_left_over();
        let objects = remote.objects();
        let again = remote.compact_well();
        assert_eq!(again["jobs_completed"], 0, "{kind:?}: {again:#}");
        assert_eq!(remote.objects(), objects, "{kind:?}");
    });
}

/// T32, and several outputs.
#[test]
fn late_files_are_compacted_into_files_of_their_own() {
    Remote::everywhere(|remote| {
        let kind = remote.bucket.kind;
        remote.configure(
            &remote.bucket,
            "min_files = 2\nsettle_seconds = 0\ntarget_file_size_mb = 1\nrow_group_size = 2048\nlate_rewrite_ratio = 100.0",
        );
        remote.write_telemetry(3, 2_000);
        remote.cycle();
        let first = remote.live();
        remote.write(PARTITION, "late_1.parquet", &telemetry(100, 300));
        remote.write(PARTITION, "late_2.parquet", &telemetry(7_000, 7_100));
        let rows = remote.rows();
        let report = remote.cycle();
        assert_eq!((report.jobs_completed, report.files_compacted), (1, 2), "{kind:?}: {report:#?}");
        let live = remote.live();
        assert!(first.iter().all(|name| live.contains(name)) && live.len() > first.len(), "{kind:?}: {live:?}");
        assert_eq!(remote.rows(), rows, "{kind:?}");
        remote.assert_nothing_left_over();
    });
}

/// I9, T11, T30: a damaged file is named, stays where it is, and the others are compacted.
#[test]
fn a_damaged_file_stops_nobody_and_stays() {
    Remote::everywhere(|remote| {
        let kind = remote.bucket.kind;
        remote.write_telemetry(4, 500);
        let rows = remote.rows();
        remote.put(PARTITION, "damaged.parquet", b"PAR1 this is no Parquet file PAR1".to_vec());
        let run = remote.arc.compact();
        assert_eq!(run.code, 1, "{kind:?}: {run:#?}");
        assert_eq!(run.json()["jobs_completed"], 1, "{kind:?}: {run:#?}");
        let live = remote.live();
        assert!(live.contains(&"damaged.parquet".to_owned()) && live.len() == 2, "{kind:?}: {live:?}");
        let key = Path::parse(format!("{PARTITION}/damaged.parquet")).unwrap();
        block_on(async { remote.raw().delete(&key).await }).unwrap();
        assert_eq!(remote.rows(), rows, "{kind:?}");
        remote.assert_nothing_left_over();
    });
}

/// I9: a bucket takes any text as a key. What is no path is named and left alone, wherever it is, and the rest compacted.
#[test]
fn keys_that_are_no_path_stop_nobody_and_stay() {
    const ODD: [&str; 5] = [
        "prod//cpu/2025/10/08/14/odd.parquet",
        "prod/cpu//2025/10/08/14/odd.parquet",
        "prod/cpu/2025/10/08/14//odd.parquet",
        "prod/cpu/2025/10/08/14/./odd.parquet",
        "/prod/cpu/2025/10/08/14/odd.parquet",
    ];
    // A listing of databases or measurements shows only where such keys begin.
    const NAMED: [&str; 5] = ["/", "prod//", ODD[1], ODD[3], ODD[2]];
    Remote::everywhere(|remote| {
        let kind = remote.bucket.kind;
        remote.write_telemetry(4, 500);
        let rows = remote.rows();
        for key in ODD {
            remote.bucket.put_as_it_is(key);
        }
        let plan = remote.arc.command(&["plan", "--json"]).output().unwrap();
        let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
        assert_eq!(plan["unrecognised"], serde_json::json!(NAMED), "{kind:?}");
        let run = remote.arc.compact();
        assert_eq!(run.code, 0, "{kind:?}: {run:#?}");
        assert_eq!(run.json()["jobs_completed"], 1, "{kind:?}: {run:#?}");
        assert!(run.stderr.contains("is no path") || run.stdout.contains("is no path"), "{kind:?}: {run:#?}");
        assert_eq!(remote.rows(), rows, "{kind:?}");
        remote.assert_nothing_left_over();
        for key in ODD {
            assert!(remote.bucket.is_there_as_it_is(key), "{kind:?}: {key} is gone");
        }
    });
}

/// I2: a file of ours that is no longer what its record says would be merged as it is, proven so, and deleted.
#[test]
fn a_compacted_file_that_changed_in_the_bucket_is_not_merged_again_and_holds_nothing_up() {
    let Some(remote) = Remote::new(Kind::FakeGcs) else { return };
    remote.write_telemetry(3, 500);
    remote.cycle();
    let name = remote.live().remove(0);
    let key = Path::parse(format!("{PARTITION}/{name}")).unwrap();
    let sound = block_on(async { remote.raw().get(&key).await.unwrap().bytes().await }).unwrap();
    let mut damaged = sound.to_vec();
    damaged[100] ^= 1;
    remote.put(PARTITION, &name, damaged);
    remote.write(PARTITION, "late_1.parquet", &telemetry(2_000, 3_000));
    remote.write(PARTITION, "late_2.parquet", &telemetry(3_000, 4_000));

    let report = remote.cycle_through(remote.storage(), Shared::new(NoHook));

    assert_eq!((report.jobs_completed, report.jobs_failed), (1, 0), "{report:#?}");
    let set_aside = format!("{:?} {:?}", report.jobs[0].inputs_quarantined, report.jobs[0].inputs_set_aside);
    assert!(set_aside.contains(&name) && set_aside.contains("its record says blake3:"), "{set_aside}");
    let live = remote.live();
    assert!(live.len() == 2 && live.contains(&name), "{live:?}");

    remote.put(PARTITION, &name, sound.to_vec());
    remote.write(PARTITION, "late_3.parquet", &telemetry(4_000, 5_000));
    remote.write(PARTITION, "late_4.parquet", &telemetry(5_000, 6_000));
    assert_eq!(remote.cycle().files_compacted, 4, "it joins the others");
    remote.assert_nothing_left_over();
}

/// I7, T21, T27: two processes that do not see each other's locks, as on two machines.
#[test]
fn two_workers_without_a_common_lock_lose_and_double_nothing() {
    Remote::everywhere(|remote| {
        let kind = remote.bucket.kind;
        remote.write_telemetry(6, 1_000);
        let rows = remote.rows();
        let workers: Vec<_> = (0..2)
            .map(|worker| {
                let state = remote.arc.dir().join(format!("worker-{worker}.db"));
                let mut command = remote.arc.server_command();
                command.args(["compact", "--json"]).env("DB_PATH", state).stdout(Stdio::piped()).stderr(Stdio::piped());
                command.spawn().unwrap()
            })
            .collect();
        let runs: Vec<Run> = workers.into_iter().map(|worker| worker.wait_with_output().unwrap().into()).collect();
        let mut completed = 0;
        for run in &runs {
            assert_eq!(run.code, 0, "{kind:?}: to lose the race is no failure: {run:#?}");
            completed += run.json()["jobs_completed"].as_u64().unwrap();
        }
        assert_eq!(completed, 1, "{kind:?}: one of them did it: {runs:#?}");
        assert_eq!(remote.rows(), rows, "{kind:?}");
        let after = remote.compact_well();
        assert_eq!(after["jobs_completed"], 0, "{kind:?}: {after:#}");
        assert_eq!(remote.rows(), rows, "{kind:?}");
        let live = remote.live();
        assert!(matches!(&live[..], [one] if one.ends_with("_compacted.parquet")), "{kind:?}: {live:?}");
        remote.assert_nothing_left_over();
    });
}

/// What people do by hand works over a network, too.
#[test]
fn the_commands_that_look_agree_with_storage() {
    Remote::everywhere(|remote| {
        remote.write_telemetry(3, 100);
        let plan = remote.arc.command(&["plan", "--json"]).output().unwrap();
        let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
        assert_eq!(plan["candidates"][0]["partition_path"], "cpu/2025/10/08/14", "{plan:#}");
        remote.compact_well();
        let verify = remote.arc.command(&["verify", "--deep"]).output().unwrap();
        assert!(verify.status.success(), "{:?}: {verify:?}", remote.bucket.kind);
    });
}
