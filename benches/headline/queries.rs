//! What compaction is for: the same queries over the small files and over the compacted ones, by DuckDB, on local disk.

use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use duckdb::Connection;
use serde::Serialize;

use crate::scenario::HOUR_SECONDS;

/// One query, before and after.
#[derive(Debug, Serialize)]
pub struct Answer {
    pub query: &'static str,
    pub before_seconds: f64,
    pub after_seconds: f64,
}

/// Asks each query `runs` times over the files of both folders; medians. The answers must be the same.
pub fn ask(before: &Path, after: &Path, runs: usize) -> anyhow::Result<Vec<Answer>> {
    let late = HOUR_SECONDS + 3000;
    let queries = [
        ("average of a column", "SELECT round(avg(usage_idle), 6)::VARCHAR FROM {}".to_owned()),
        (
            "last ten minutes",
            format!("SELECT (count(*), round(max(usage_user), 6))::VARCHAR FROM {{}} WHERE time >= to_timestamp({late})::TIMESTAMP"),
        ),
        (
            "average by host",
            "SELECT (count(*), round(sum(a), 4))::VARCHAR FROM (SELECT host, avg(usage_user) AS a FROM {} GROUP BY host)"
                .to_owned(),
        ),
    ];
    let mut answers = Vec::new();
    for (query, sql) in queries {
        let (mut times, mut texts) = ([Vec::new(), Vec::new()], Vec::new());
        for _ in 0..runs.max(1) {
            for (folder, times) in [before, after].into_iter().zip(&mut times) {
                let files = format!("read_parquet('{}/*.parquet')", folder.display());
                let db = Connection::open_in_memory()?;
                let start = Instant::now();
                let text: String = db.query_row(&sql.replace("{}", &files), [], |row| row.get(0))?;
                times.push(start.elapsed().as_secs_f64());
                texts.push(text);
            }
        }
        ensure!(texts.iter().all(|text| *text == texts[0]), "{query}: {texts:?}");
        let [before_seconds, after_seconds] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        answers.push(Answer { query, before_seconds, after_seconds });
    }
    Ok(answers)
}
