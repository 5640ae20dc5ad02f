//! Disks that fill up while a job runs, at every point at which they can: real file systems, with room for one more file, or
//! for a few more bytes, from none until it is enough. When there is room again, the next run finishes the work.

use std::fs;

use super::in_namespace;
use crate::support::{Arc, PARTITION, Run, again, telemetry};

/// What two runs of the program said, the second with room, and what the data folder then was.
struct Both {
    first: Run,
    second: Run,
}

/// Compacts with little room (`$ROOM`, an option of tmpfs) for `$PLACE`, and again when there is more.
fn both(arc: &Arc, place: &str, room: &str) -> Both {
    let script = format!(
        r#"cp -a "$DATA" original; mkdir -p {place}
           mount -t tmpfs -o size=1g tmpfs {place}
           if [ {place} = "$DATA" ]; then cp -a original/. "$DATA"/; fi
           mount -o remount,{room} {place}
           code=0; "$ARC" --config "$CONF" compact --json > first.out 2> first.err || code=$?; echo $code > first.code
           mount -o remount,size=1g,nr_inodes=100000 {place}
           code=0; "$ARC" --config "$CONF" compact --json > second.out 2> second.err || code=$?; echo $code > second.code
           find "$DATA" -path '*/_compaction_staging/*' -type f ! -name .arc-lock > left; find "$TEMP" -type f ! -name .arc-lock >> left || true
           rm -rf after; cp -a "$DATA" after"#
    );
    let run = in_namespace(arc, &script);
    assert_eq!(run.code, 0, "{room}: {run:#?}");
    let read = |name: &str| fs::read_to_string(arc.dir().join(name)).unwrap();
    assert_eq!(read("left"), "", "{room}: nothing is left over");
    let run = |name: &str| Run {
        code: read(&format!("{name}.code")).trim().parse().unwrap(),
        stdout: read(&format!("{name}.out")),
        stderr: read(&format!("{name}.err")),
    };
    Both { first: run("first"), second: run("second") }
}

/// Gives more and more room until the first run finds enough of it, after at least so many that found too little.
fn with_more_and_more(prepare: impl Fn() -> Arc, place: &str, rooms: impl Iterator<Item = String>, at_least: usize) {
    let mut too_little = 0;
    for room in again::each(rooms, String::clone) {
        let arc = prepare();
        let rows = arc.rows(PARTITION);
        let Both { first, second } = both(&arc, place, &room);
        let enough = first.code == 0 && first.json()["jobs_completed"] == 1;
        if !enough {
            too_little += 1;
            let said = format!("{}{}", first.stdout, first.stderr);
            let named =
                said.contains("no space left") || said.contains("no_temp_space") || said.contains("No space left");
            assert!(named, "{room}: what was full is named: {first:#?}");
            assert!(said.contains("free space") || said.contains("free_bytes"), "{room}: the remedy: {first:#?}");
        }
        assert_eq!(second.code, 0, "{room}: {first:#?} {second:#?}");
        // The copy has other inodes, and so other ETags; what counts is by name.
        fs::remove_dir_all(arc.data()).unwrap();
        fs::rename(arc.dir().join("after"), arc.data()).unwrap();
        let live = arc.live(PARTITION);
        assert!(live.iter().all(|name| name.ends_with("_compacted.parquet")), "{room}: {live:?} {second:#?}");
        assert_eq!(arc.rows(PARTITION), rows, "{room}: every row is there once");
        if enough {
            let hit = too_little >= at_least || again::is_one_point();
            assert!(hit, "only {too_little} points at which {place} can be full");
            return;
        }
    }
    assert!(again::is_one_point(), "there was never enough room");
}

fn small() -> Arc {
    let arc = Arc::new();
    arc.write_telemetry(PARTITION, 4, 50);
    arc
}

fn large() -> Arc {
    let arc = Arc::new();
    for i in 0..4 {
        let query = format!(
            "SELECT *, hash(counter) AS h1, hash(counter + 1) AS h2 FROM ({})",
            telemetry(i * 9000, (i + 1) * 9000)
        );
        arc.write(PARTITION, &format!("{i}.parquet"), &query);
    }
    arc
}

/// Rows that are nothing while they are compressed, and tens of megabytes when they are not, as is asked for here: the look
/// at the free space before the job does not see that coming.
fn swelling() -> Arc {
    let arc = Arc::with("min_files = 2\ncompression = 'none'\nparquet_version = 'v1'");
    for i in 0..2 {
        let query = format!(
            "SELECT *, repeat(counter::VARCHAR || ' ', 150) AS text FROM ({})",
            telemetry(i * 5_000, (i + 1) * 5_000)
        );
        let path = arc.folder(PARTITION).join(format!("{i}.parquet"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        crate::support::copy(&query, &path, "FORMAT parquet, COMPRESSION zstd");
        crate::support::age(&path);
    }
    arc
}

/// Files and folders of a tree; in tmpfs each takes an inode.
fn entries(arc: &Arc) -> usize {
    let mut folders = vec![arc.data()];
    let mut entries = 1;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            entries += 1;
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    entries
}

#[test]
fn storage_without_room_for_another_file_at_any_point_loses_nothing() {
    let taken = entries(&small());
    let rooms = (0..40).map(|more| format!("nr_inodes={}", taken + more));
    with_more_and_more(small, "\"$DATA\"", rooms, 4);
}

#[test]
fn storage_without_room_for_more_bytes_at_any_point_loses_nothing() {
    let taken: u64 = crate::support::tree(&large().data()).values().map(|(size, _)| size.div_ceil(4096) * 4 + 4).sum();
    let rooms = (0..12).map(|more| format!("size={}k", taken + more * 150));
    with_more_and_more(large, "\"$DATA\"", rooms, 3);
}

#[test]
fn a_temp_disk_without_room_for_another_file_at_any_point_loses_nothing() {
    let rooms = (2..40).map(|inodes| format!("nr_inodes={inodes}"));
    with_more_and_more(small, "\"$TEMP\"", rooms, 3);
}

#[test]
fn a_temp_disk_that_fills_up_during_the_merge_loses_nothing() {
    let rooms = (0..14).map(|step| format!("size={}k", 256 << step));
    with_more_and_more(swelling, "\"$TEMP\"", rooms, 3);
}
