//! The queries that the demo runs before and after.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use duckdb::Connection;
use serde::Serialize;

use crate::partition::PartitionId;

/// Each query is run this often; the median counts.
const RUNS: usize = 3;

/// How long a query took over all measurements.
#[derive(Debug, Serialize)]
pub struct Timing {
    pub name: &'static str,
    /// Median of three runs.
    pub milliseconds: f64,
}

/// What the files answer.
#[derive(Debug, Serialize)]
pub struct Answers {
    pub queries: Vec<Timing>,
    /// For each measurement: row count, xor and sum of the hashes of all rows. Independent of order and files.
    pub fingerprint: Vec<String>,
}

const QUERIES: [(&str, &str); 3] = [
    ("count and newest row", "SELECT count(*), max(time) FROM t"),
    (
        "last ten minutes, by host",
        "SELECT host, count(*) FROM t WHERE time >= (SELECT max(time) FROM t) - INTERVAL 10 MINUTE GROUP BY host",
    ),
    (
        "whole hour, by host and minute",
        "SELECT host, date_trunc('minute', time) AS m, count(*) FROM t GROUP BY host, m",
    ),
];

/// Asks all tables everything.
pub fn ask(tables: &[(PartitionId, Vec<PathBuf>)]) -> anyhow::Result<Answers> {
    let db = Connection::open_in_memory()?;
    let mut answers = Answers { queries: Vec::new(), fingerprint: Vec::new() };
    for (name, sql) in QUERIES {
        let mut milliseconds = 0.0;
        for (partition, files) in tables {
            let sql = sql.replace("FROM t", &format!("FROM {}", table(files)));
            milliseconds += median(&db, &sql).with_context(|| format!("{name} over {partition}"))?;
        }
        answers.queries.push(Timing { name, milliseconds });
    }
    for (partition, files) in tables {
        let sql = format!(
            "SELECT printf('%d rows, xor %x, sum %s', count(*), bit_xor(hash(t)), sum(hash(t)::HUGEINT)::VARCHAR) FROM {} AS t",
            table(files)
        );
        let fingerprint: String = db.query_row(&sql, [], |row| row.get(0)).with_context(|| partition.to_string())?;
        answers.fingerprint.push(format!("{}: {fingerprint}", partition.measurement()));
    }
    Ok(answers)
}

fn table(files: &[PathBuf]) -> String {
    let names: Vec<String> =
        files.iter().map(|f| format!("'{}'", f.display().to_string().replace('\'', "''"))).collect();
    format!("read_parquet([{}], hive_partitioning = false)", names.join(", "))
}

fn median(db: &Connection, sql: &str) -> anyhow::Result<f64> {
    let mut times = [0.0; RUNS];
    for time in &mut times {
        let began = Instant::now();
        let mut statement = db.prepare(sql)?;
        let mut rows = statement.query([])?;
        while rows.next()?.is_some() {}
        *time = began.elapsed().as_secs_f64() * 1000.0;
    }
    times.sort_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}
