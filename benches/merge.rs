//! What the steps of a merge cost, one by one, on files as ingestion writes them: `cargo bench --bench merge`.
//!
//! Slices are merged by both means on the same rows with one thread, so that one lane is compared with one lane. The figures
//! of a whole compaction are in the bench `headline`.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use arc::config::Config;
use arc::merge::parts::Parts;
use arc::merge::{Means, MergeInput, MergeLimits, MergeRequest, Verify};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use tempfile::TempDir;

const ROWS: u64 = 500_000;
const FILES: u64 = 50;

/// Enough for all rows in one slice.
const ONE_SLICE_BYTES: u64 = 4 << 30;

/// So little that there are many slices.
const MANY_SLICES_BYTES: u64 = 96 << 20;

fn main() {
    divan::main();
}

/// What the files look like.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Each after the other, sorted inside.
    Disjoint,
    /// Each spans the hour, its rows in no order.
    Shuffled,
}

/// Files in a folder, which is removed in the end.
struct Scene {
    folder: TempDir,
    inputs: Vec<MergeInput>,
}

impl Scene {
    fn new(shape: Shape) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the bench");
        let db = duckdb::Connection::open_in_memory().expect("DuckDB");
        let inputs = (0..FILES).map(|number| {
            let name = format!("cpu_{number:04}.parquet");
            let path = folder.path().join(&name);
            write(&db, shape, number, &path);
            let size_bytes = fs::metadata(&path).expect("just written").len();
            MergeInput { name, path, size_bytes }
        });
        let inputs = inputs.collect();
        Self { folder, inputs }
    }

    fn bytes(&self) -> u64 {
        self.inputs.iter().map(|input| input.size_bytes).sum()
    }

    fn open(&self, means: Means, memory_bytes: u64) -> Parts {
        let work_dir = self.folder.path().join("work");
        fs::create_dir_all(&work_dir).expect("a folder for the bench");
        let limits = MergeLimits { memory_bytes, threads: NonZeroUsize::MIN, temp_bytes: None, means };
        let request = MergeRequest {
            job_id: "bench".to_owned(),
            work_dir,
            inputs: self.inputs.clone(),
            output_stem: "cpu_20251008_14_g1_9f3a51c2b7d0".to_owned(),
            generation: 1,
            options: Config::default().compaction.partition.merge,
            limits,
        };
        Parts::open(request).expect("sound files")
    }
}

fn write(db: &duckdb::Connection, shape: Shape, number: u64, path: &Path) {
    let (first, end) = (ROWS * number / FILES, ROWS * (number + 1) / FILES);
    let tick = match shape {
        Shape::Disjoint => "i".to_owned(),
        Shape::Shuffled => format!("hash(i * 31 + 7) % {ROWS}"),
    };
    let sql = format!(
        "COPY (SELECT make_timestamp(1759932000000000 + (({tick}) * 3600000000 // {ROWS})::BIGINT) AS time, \
                 printf('server-%03d', i % 100) AS host, ['eu', 'us', 'ap'][1 + (i % 3)::INTEGER] AS region, \
                 round(20 + 12 * sin(i % 100 + i * 6.2831853 / {ROWS}) + 25 * u, 2) AS usage_user, \
                 71 - 25 * u AS usage_idle, round(u, 1) AS usage_steal, i % 16 AS core \
               FROM (SELECT i, hash(i + 42) / 18446744073709551616.0 AS u FROM range({first}, {end}) AS r(i))) \
         TO '{}' (FORMAT parquet, COMPRESSION snappy)",
        path.display()
    );
    db.execute_batch(&sql).expect("write a file of the bench");
}

/// One slice of all rows: order, encode, compress.
#[divan::bench(args = [Shape::Disjoint, Shape::Shuffled], sample_count = 5, sample_size = 1)]
fn slice_by_column(bencher: Bencher<'_, '_>, shape: Shape) {
    slice(bencher, shape, Means::All);
}

#[divan::bench(args = [Shape::Disjoint, Shape::Shuffled], sample_count = 5, sample_size = 1)]
fn slice_by_duckdb(bencher: Bencher<'_, '_>, shape: Shape) {
    slice(bencher, shape, Means::DuckDb);
}

fn slice(bencher: Bencher<'_, '_>, shape: Shape, means: Means) {
    let scene = Scene::new(shape);
    let parts = scene.open(means, ONE_SLICE_BYTES);
    let bencher = bencher.counter(ItemsCount::new(ROWS)).counter(BytesCount::new(scene.bytes()));
    bencher.bench_local(|| parts.merge_slices().expect("sound files"));
}

/// Slices become one file, by copying column chunks; with the checksum over it, not synced.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn stitch(bencher: Bencher<'_, '_>) {
    let scene = Scene::new(Shape::Disjoint);
    let parts = scene.open(Means::All, MANY_SLICES_BYTES);
    let bencher = bencher.counter(ItemsCount::new(ROWS));
    bencher
        .with_inputs(|| parts.merge_slices().expect("sound files"))
        .bench_local_values(|slices| parts.stitch(slices).expect("sound slices"));
}

/// `verify = "content"`, first half: every value of the inputs.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn proof_of_inputs(bencher: Bencher<'_, '_>) {
    let scene = Scene::new(Shape::Disjoint);
    let parts = scene.open(Means::All, ONE_SLICE_BYTES);
    let bencher = bencher.counter(ItemsCount::new(ROWS)).counter(BytesCount::new(scene.bytes()));
    bencher.bench_local(|| parts.fingerprints().expect("sound files"));
}

/// Second half: every value of the outputs, and that both are the same.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn proof_of_outputs_by_content(bencher: Bencher<'_, '_>) {
    prove(bencher, Verify::Content);
}

/// `verify = "footers"`.
#[divan::bench(sample_count = 100, sample_size = 1)]
fn proof_of_outputs_by_footers(bencher: Bencher<'_, '_>) {
    prove(bencher, Verify::Footers);
}

fn prove(bencher: Bencher<'_, '_>, verify: Verify) {
    let scene = Scene::new(Shape::Disjoint);
    let parts = scene.open(Means::All, ONE_SLICE_BYTES);
    let expected = (verify == Verify::Content).then(|| parts.fingerprints().expect("sound files"));
    let slices = parts.merge_slices().expect("sound files");
    let outputs = parts.stitch(slices).expect("sound slices");
    let bencher = bencher.counter(ItemsCount::new(ROWS));
    bencher.bench_local(|| parts.prove(&outputs, expected.as_ref()).expect("the same rows"));
}
