//! What one decision about one partition costs, from a listing that is at hand: `cargo bench --bench policy`.
//!
//! Nothing is read: what it costs to list and to read records is in the bench `listing`.

use std::hint::black_box;
use std::time::Duration;

use arc::compaction::observe::{View, compare};
use arc::compaction::plan::Decision;
use arc::compaction::policy::{Situation, decide, ready_since};
use arc::compaction::quarantine::{HeldBack, QuarantinedFile};
use arc::compaction::record::{Head, LiveFile, Record, RecordKind, RetiredFile, Totals};
use arc::compaction::settings::PolicySettings;
use arc::config::Config;
use arc::merge::SetAsideReason;
use arc::partition::{CompactedName, DataFile, FileKind, Generation, Listing, PartitionId, RecordEntry};
use chrono::{DateTime, TimeDelta, Utc};
use divan::Bencher;
use divan::counter::ItemsCount;

/// Files of a partition: hardly worth a job, an hour of ingestion, and a writer gone wild.
const FILES: [usize; 4] = [5, 100, 1_000, 10_000];

fn main() {
    divan::main();
}

/// Everything that a decision depends on.
struct Scene {
    partition: PartitionId,
    view: View,
    held_back: HeldBack,
    now: DateTime<Utc>,
    settings: PolicySettings,
}

impl Scene {
    fn situation(&self) -> Situation<'_> {
        Situation { partition: &self.partition, view: &self.view, held_back: &self.held_back, now: self.now }
    }

    fn decide(&self) -> Decision {
        decide(self.situation(), &self.settings)
    }
}

fn partition() -> PartitionId {
    "db/cpu/2025/10/08/14".parse().expect("a path of a partition")
}

fn file(name: String, size_bytes: u64) -> DataFile {
    let partition = partition();
    DataFile {
        etag: "9b2cf535f27731c974343645a3985328".to_owned(),
        last_modified: partition.hour().start() + TimeDelta::minutes(30),
        kind: FileKind::of(&partition, &name),
        name,
        size_bytes,
    }
}

fn raw(files: usize) -> Vec<DataFile> {
    (0..files).map(|number| file(format!("cpu_20251008_14_{number:06}.parquet"), 1_000_000)).collect()
}

/// Only raw files.
fn fresh(files: usize) -> Scene {
    let listing = Listing { data: raw(files), records: Vec::new(), foreign: Vec::new() };
    let settings = PolicySettings { min_files: FILES[0], ..Config::default().compaction.partition.policy };
    // Within the wait for late files.
    let now = partition().hour().start() + TimeDelta::hours(5);
    let view = View { head: Head::none(), listing };
    Scene { partition: partition(), view, held_back: HeldBack::default(), now, settings }
}

/// So many late files beside what a first compaction of as many has left: its output, and its record.
fn late(files: usize) -> Scene {
    let mut scene = fresh(files);
    let stem = CompactedName::stem(&scene.partition, Generation(1), "9f3a51c2b7d0");
    let output = file(CompactedName::from_stem(&stem, 1, 1), 300_000_000);
    let live = LiveFile {
        name: output.name.clone(),
        size_bytes: output.size_bytes,
        rows: 1,
        min_time: None,
        max_time: None,
        checksum: String::new(),
    };
    let retired = |number| {
        let DataFile { size_bytes, etag, .. } = file(String::new(), 1_000_000);
        RetiredFile { name: format!("cpu_20251008_13_{number:06}.parquet"), size_bytes, etag }
    };
    let record = Record {
        format: 1,
        generation: Generation(1),
        kind: RecordKind::Commit,
        job_id: "job".to_owned(),
        worker_id: "worker".to_owned(),
        lease_token: 1,
        created_at: scene.now,
        live: vec![live],
        retired: (0..files).map(retired).collect(),
        inputs: Totals::default(),
        outputs: Totals::default(),
        fingerprint: None,
        engine: None,
    };
    scene.view.listing.data.push(output);
    scene.view.listing.data.sort_by(|a, b| a.name.cmp(&b.name));
    scene.view.listing.records.push(RecordEntry {
        generation: Generation(1),
        name: RecordEntry::file_name(Generation(1)),
        size_bytes: 1,
        etag: "e".to_owned(),
        last_modified: scene.now,
    });
    scene.view.head = Head::of(record, "e".to_owned());
    scene
}

/// As [`fresh`], a tenth of the files in quarantine.
fn quarantined(files: usize) -> Scene {
    let mut scene = fresh(files);
    let entry = |file: &DataFile| QuarantinedFile {
        id: 1,
        partition: scene.partition.clone(),
        name: file.name.clone(),
        size_bytes: file.size_bytes,
        etag: file.etag.clone(),
        reason: SetAsideReason::Unreadable("no footer".to_owned()),
        version: "1".to_owned(),
        first_seen_at: scene.now,
        retry_at: scene.now + TimeDelta::hours(24),
    };
    let entries: Vec<QuarantinedFile> = scene.view.listing.data.iter().step_by(10).map(entry).collect();
    scene.held_back = HeldBack::of(&entries, "1", scene.now);
    scene
}

fn bench(bencher: Bencher<'_, '_>, files: usize, scene: &Scene) {
    bencher.counter(ItemsCount::new(files)).bench(|| black_box(scene).decide());
}

/// The commonest of all: an hour that is not over.
#[divan::bench(args = FILES)]
fn too_young(bencher: Bencher<'_, '_>, files: usize) {
    let mut scene = fresh(files);
    scene.now = scene.partition.hour().start();
    bench(bencher, files, &scene);
}

#[divan::bench(args = FILES)]
fn too_few(bencher: Bencher<'_, '_>, files: usize) {
    let mut scene = fresh(files);
    scene.settings.min_files = files + 1;
    bench(bencher, files, &scene);
}

#[divan::bench(args = FILES)]
fn first_compaction(bencher: Bencher<'_, '_>, files: usize) {
    bench(bencher, files, &fresh(files));
}

#[divan::bench(args = FILES)]
fn late_files(bencher: Bencher<'_, '_>, files: usize) {
    bench(bencher, files, &late(files));
}

#[divan::bench(args = FILES)]
fn a_tenth_in_quarantine(bencher: Bencher<'_, '_>, files: usize) {
    bench(bencher, files, &quarantined(files));
}

/// Do the newest record and the listing agree?
#[divan::bench(args = FILES)]
fn compare_record_and_listing(bencher: Bencher<'_, '_>, files: usize) {
    let Scene { view, .. } = late(files);
    bencher.counter(ItemsCount::new(files)).bench(|| compare(black_box(&view.head), black_box(&view.listing)));
}

/// For the metric of how long work has been waiting.
#[divan::bench(args = FILES)]
fn how_long_a_plan_has_waited(bencher: Bencher<'_, '_>, files: usize) {
    let mut scene = fresh(files);
    scene.settings.min_files = files;
    scene.settings.settle = Duration::ZERO;
    let Decision::Compact(plan) = scene.decide() else { panic!("as many files as are needed") };
    bencher.counter(ItemsCount::new(files)).bench(|| ready_since(black_box(&plan), &scene.settings));
}
