//! What compaction is for: the same queries over the small files and over the compacted ones.
//!
//! Twice: by DuckDB on local disk, and by a reader of our own ([`crate::reader`]) through S3 with latency
//! ([`crate::bucket`]), where requests are counted. All four answers must be the same.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use duckdb::Connection;
use object_store::path::Path as Key;
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::bucket::Bucket;
use crate::reader;
use crate::scenario::HOUR_SECONDS;

/// The last ten minutes begin here, in microseconds.
pub const SINCE_MICROS: i64 = (HOUR_SECONDS.cast_signed() + 3000) * 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    Average,
    LastMinutes,
    ByHost,
}

impl Query {
    const ALL: [Self; 3] = [Self::Average, Self::LastMinutes, Self::ByHost];

    fn name(self) -> &'static str {
        match self {
            Self::Average => "average of a column",
            Self::LastMinutes => "last ten minutes",
            Self::ByHost => "average by host",
        }
    }

    /// One row of doubles.
    fn sql(self, files: &str) -> String {
        match self {
            Self::Average => format!("SELECT avg(usage_idle) FROM {files}"),
            Self::LastMinutes => format!(
                "SELECT count(*)::DOUBLE, max(usage_user) FROM {files} WHERE time >= make_timestamp({SINCE_MICROS})"
            ),
            Self::ByHost => format!(
                "SELECT count(*)::DOUBLE, sum(a) FROM (SELECT host, avg(usage_user) AS a FROM {files} GROUP BY host)"
            ),
        }
    }

    /// The columns that it reads.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Average => &["usage_idle"],
            Self::LastMinutes => &["time", "usage_user"],
            Self::ByHost => &["host", "usage_user"],
        }
    }
}

/// One query, before and after.
#[derive(Debug, Serialize)]
pub struct Answer {
    pub query: &'static str,
    pub through: Through,
    pub before: Cost,
    pub after: Cost,
}

/// How the files are reached.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Through {
    /// By DuckDB.
    LocalDisk,
    /// By the reader of this bench.
    S3With20Ms,
}

/// What an answer took: medians.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cost {
    pub seconds: f64,
    /// Requests, and bytes of their answers. Local disk has none.
    pub requests: Option<u64>,
    pub bytes: Option<u64>,
}

/// A folder below the base of a storage.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    pub base: &'a Path,
    pub folder: &'a Path,
}

/// Asks each query `runs` times over the files before and after, alternating.
pub fn ask(before: Files<'_>, after: Files<'_>, runs: usize) -> anyhow::Result<Vec<Answer>> {
    let runtime = Runtime::new()?;
    let buckets = [Bucket::serve(before.base)?, Bucket::serve(after.base)?];
    let mut all = Vec::new();
    for query in Query::ALL {
        let mut answers: Vec<Vec<f64>> = Vec::new();
        for through in [Through::LocalDisk, Through::S3With20Ms] {
            let mut costs = [Vec::new(), Vec::new()];
            for _ in 0..runs.max(1) {
                for ((files, bucket), costs) in [before, after].into_iter().zip(&buckets).zip(&mut costs) {
                    let (cost, answer) = match through {
                        Through::LocalDisk => by_duckdb(files.folder, query)?,
                        Through::S3With20Ms => by_reader(&runtime, bucket, files, query)?,
                    };
                    costs.push(cost);
                    answers.push(answer);
                }
            }
            let [before, after] = costs.map(median);
            all.push(Answer { query: query.name(), through, before, after });
        }
        ensure!(answers.iter().all(|answer| same(answer, &answers[0])), "{}: {answers:?}", query.name());
    }
    Ok(all)
}

fn by_duckdb(folder: &Path, query: Query) -> anyhow::Result<(Cost, Vec<f64>)> {
    let sql = query.sql(&format!("read_parquet('{}/*.parquet')", folder.display()));
    let db = Connection::open_in_memory()?;
    let start = Instant::now();
    let mut statement = db.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let row = rows.next()?.context("a row")?;
    let mut answer = vec![row.get(0)?];
    if query != Query::Average {
        answer.push(row.get(1)?);
    }
    Ok((Cost { seconds: start.elapsed().as_secs_f64(), requests: None, bytes: None }, answer))
}

fn by_reader(runtime: &Runtime, bucket: &Bucket, files: Files<'_>, query: Query) -> anyhow::Result<(Cost, Vec<f64>)> {
    let key = Key::from(files.folder.strip_prefix(files.base)?.display().to_string());
    let client = Arc::new(bucket.client()?);
    let (requests, bytes) = bucket.counted();
    let start = Instant::now();
    let answer = runtime.block_on(reader::answer(client, &key, query))?;
    let seconds = start.elapsed().as_secs_f64();
    let (requests_after, bytes_after) = bucket.counted();
    Ok((Cost { seconds, requests: Some(requests_after - requests), bytes: Some(bytes_after - bytes) }, answer))
}

/// The run with the median time: the others asked for the same.
fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    costs[costs.len() / 2]
}

/// Sums depend on the order of their terms, in the last digits.
fn same(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-9 * b.abs())
}
