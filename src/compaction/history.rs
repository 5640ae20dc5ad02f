//! The durable past: reports of jobs, and totals for each database.
//!
//! The newest `history_limit` reports are kept; totals are kept for ever, one row a database. A job is written once, after
//! it has ended, in one transaction with its totals (T62). Losing the file loses this and nothing else, so a job never
//! fails because its report could not be kept.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use serde::Serialize;

use super::report::{JobReport, JobStatus};
use crate::state::{Failure, StateDb, StateError};

/// Reports and totals in the state database.
#[derive(Debug, Clone)]
pub struct History {
    state: StateDb,
    /// Reports that are kept.
    limit: usize,
}

/// Which reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryFilter {
    pub status: Option<JobStatus>,
    pub database: Option<String>,
}

/// Which reports, and how many of them at most. The default is the newest ten of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryQuery {
    pub filter: HistoryFilter,
    pub limit: usize,
}

impl Default for HistoryQuery {
    fn default() -> Self {
        Self { filter: HistoryFilter::default(), limit: 10 }
    }
}

/// Sums over all jobs that ever ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    pub jobs_completed: u64,
    pub jobs_failed: u64,
    pub jobs_cancelled: u64,
    pub files_compacted: u64,
    pub files_written: u64,
    pub rows: u64,
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// Sums, and when a job last succeeded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    pub all: Counters,
    pub databases: BTreeMap<String, Counters>,
    pub last_success_at: Option<DateTime<Utc>>,
}

impl Counters {
    fn add(&mut self, other: &Self) {
        self.jobs_completed += other.jobs_completed;
        self.jobs_failed += other.jobs_failed;
        self.jobs_cancelled += other.jobs_cancelled;
        self.files_compacted += other.files_compacted;
        self.files_written += other.files_written;
        self.rows += other.rows;
        self.bytes_before += other.bytes_before;
        self.bytes_after += other.bytes_after;
    }
}

impl History {
    #[must_use]
    pub fn new(state: StateDb, limit: usize) -> Self {
        Self { state, limit }
    }

    pub(super) fn state(&self) -> &StateDb {
        &self.state
    }

    /// Keeps the report of a job that has ended, and counts it.
    ///
    /// # Errors
    /// When it is not kept, or nobody knows.
    pub async fn record(&self, report: &JobReport) -> Result<(), StateError> {
        let (report, limit) = (report.clone(), self.limit);
        self.state.write(move |connection| record(connection, &report, limit)).await
    }

    /// The newest reports that match, newest first.
    ///
    /// # Errors
    /// When the state database cannot be read.
    pub async fn recent(&self, filter: HistoryFilter, limit: usize) -> Result<Vec<JobReport>, StateError> {
        let work = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT job_id, report FROM compaction_jobs
                 WHERE (?1 IS NULL OR status = ?1) AND (?2 IS NULL OR database = ?2) ORDER BY number DESC LIMIT ?3",
            )?;
            let wanted = params![filter.status.map(JobStatus::as_str), filter.database, stored(limit as u64)];
            let rows = statement.query_map(wanted, |row| Ok(read_report(row)))?;
            rows.map(|row| row?).collect()
        };
        self.state.read(work).await
    }

    /// How many kept reports match.
    ///
    /// # Errors
    /// When the state database cannot be read.
    pub async fn count(&self, filter: HistoryFilter) -> Result<u64, StateError> {
        let work = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT count(*) FROM compaction_jobs
                 WHERE (?1 IS NULL OR status = ?1) AND (?2 IS NULL OR database = ?2)",
            )?;
            let wanted = params![filter.status.map(JobStatus::as_str), filter.database];
            Ok(counted(statement.query_row(wanted, |row| row.get(0))?))
        };
        self.state.read(work).await
    }

    /// One job's report.
    ///
    /// # Errors
    /// When the state database cannot be read.
    pub async fn job(&self, job_id: &str) -> Result<Option<JobReport>, StateError> {
        let job_id = job_id.to_owned();
        let work = move |connection: &mut Connection| {
            let mut statement =
                connection.prepare_cached("SELECT job_id, report FROM compaction_jobs WHERE job_id = ?1")?;
            statement.query_row([job_id], |row| Ok(read_report(row))).optional()?.transpose()
        };
        self.state.read(work).await
    }

    /// Totals over all jobs that ever ended.
    ///
    /// # Errors
    /// When the state database cannot be read.
    pub async fn totals(&self) -> Result<Totals, StateError> {
        self.state.read(totals).await
    }
}

fn record(connection: &mut Connection, report: &JobReport, limit: usize) -> Result<(), Failure> {
    let text = serde_json::to_string(report).expect("a report has no keys that JSON cannot write");
    let completed_at = report.completed_at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let succeeded_at = (report.status == JobStatus::Completed).then_some(&completed_at);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let added = transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO compaction_jobs (job_id, database, partition_path, status, completed_at, report)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            report.job_id,
            report.database,
            report.partition(),
            report.status.as_str(),
            completed_at,
            text
        ])?;
    if added == 0 {
        // Written before, by a call whose answer got lost: counted, too.
        return Ok(());
    }
    let counts = |status| i64::from(report.status == status);
    transaction
        .prepare_cached(
            "INSERT INTO compaction_totals VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (database) DO UPDATE SET
                 jobs_completed = jobs_completed + excluded.jobs_completed,
                 jobs_failed = jobs_failed + excluded.jobs_failed,
                 jobs_cancelled = jobs_cancelled + excluded.jobs_cancelled,
                 files_compacted = files_compacted + excluded.files_compacted,
                 files_written = files_written + excluded.files_written,
                 rows = rows + excluded.rows,
                 bytes_before = bytes_before + excluded.bytes_before,
                 bytes_after = bytes_after + excluded.bytes_after,
                 last_success_at = coalesce(excluded.last_success_at, last_success_at)",
        )?
        .execute(params![
            report.database,
            counts(JobStatus::Completed),
            counts(JobStatus::Failed),
            counts(JobStatus::Cancelled),
            stored(report.files_compacted),
            stored(report.files_written),
            stored(report.rows),
            stored(report.bytes_before),
            stored(report.bytes_after),
            succeeded_at
        ])?;
    transaction
        .prepare_cached(
            "DELETE FROM compaction_jobs WHERE number <=
                 (SELECT number FROM compaction_jobs ORDER BY number DESC LIMIT 1 OFFSET ?1)",
        )?
        .execute([stored(limit as u64)])?;
    transaction.commit()?;
    Ok(())
}

fn totals(connection: &mut Connection) -> Result<Totals, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT database, last_success_at, jobs_completed, jobs_failed, jobs_cancelled, files_compacted, files_written,
                rows, bytes_before, bytes_after FROM compaction_totals",
    )?;
    let mut rows = statement.query([])?;
    let mut totals = Totals::default();
    while let Some(row) = rows.next()? {
        let (database, counters, last_success_at) = read_totals(row)?;
        totals.all.add(&counters);
        totals.databases.insert(database, counters);
        totals.last_success_at = totals.last_success_at.max(last_success_at);
    }
    Ok(totals)
}

fn read_totals(row: &Row<'_>) -> Result<(String, Counters, Option<DateTime<Utc>>), Failure> {
    let database: String = row.get(0)?;
    let last_success_at = match row.get::<_, Option<String>>(1)? {
        None => None,
        Some(text) => {
            let unreadable = |_| Failure::row("compaction_totals", &database, "last_success_at", &text);
            Some(DateTime::parse_from_rfc3339(&text).map_err(unreadable)?.to_utc())
        }
    };
    let number = |column: usize| row.get(column).map(counted);
    let counters = Counters {
        jobs_completed: number(2)?,
        jobs_failed: number(3)?,
        jobs_cancelled: number(4)?,
        files_compacted: number(5)?,
        files_written: number(6)?,
        rows: number(7)?,
        bytes_before: number(8)?,
        bytes_after: number(9)?,
    };
    Ok((database, counters, last_success_at))
}

fn read_report(row: &Row<'_>) -> Result<JobReport, Failure> {
    let job_id: String = row.get(0)?;
    let text: String = row.get(1)?;
    serde_json::from_str(&text).map_err(|_| Failure::row("compaction_jobs", &job_id, "report", &text))
}

/// SQLite's integers are signed; no count of ours gets near that.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn counted(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compaction::events::Step;
    use crate::compaction::plan::Trigger;
    use crate::compaction::testing::at;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn report(number: u32, database: &str, status: JobStatus) -> JobReport {
        JobReport {
            job_id: format!("job_{number}"),
            database: database.to_owned(),
            measurement: "cpu".to_owned(),
            partition_path: "cpu/2025/10/08/14".to_owned(),
            status,
            trigger: Trigger::First,
            step: Step::Tidy,
            files_compacted: 10,
            files_written: 1,
            rows: 100,
            bytes_before: 1_000,
            bytes_after: 400,
            compression_ratio: 0.6,
            duration_seconds: 1.5,
            peak_memory_bytes: 7,
            started_at: at(16, 0),
            completed_at: at(16, number),
            error: None,
            inputs_quarantined: Vec::new(),
            inputs_set_aside: Vec::new(),
            outputs: vec!["a.parquet".to_owned()],
            fingerprint: None,
            worker_id: "w".to_owned(),
        }
    }

    fn ids(reports: &[JobReport]) -> Vec<&str> {
        reports.iter().map(|r| r.job_id.as_str()).collect()
    }

    /// T53: the number of kept reports is bounded; totals still count everything.
    #[test]
    fn the_newest_reports_are_kept_and_totals_are_for_ever() {
        let history = History::new(StateDb::in_memory().unwrap(), 3);
        for number in 0..5 {
            let status = if number == 4 { JobStatus::Failed } else { JobStatus::Completed };
            let database = if number == 0 { "old" } else { "db" };
            block_on(history.record(&report(number, database, status))).unwrap();
        }
        let recent = block_on(history.recent(HistoryFilter::default(), 10)).unwrap();
        assert_eq!(ids(&recent), ["job_4", "job_3", "job_2"]);
        let totals = block_on(history.totals()).unwrap();
        assert_eq!((totals.all.jobs_completed, totals.all.jobs_failed), (4, 1));
        assert_eq!(totals.databases["old"].rows, 100);
        assert_eq!(totals.last_success_at, Some(at(16, 3)));
    }

    #[test]
    fn reports_are_found_by_id_status_and_database() {
        let history = History::new(StateDb::in_memory().unwrap(), 10);
        block_on(history.record(&report(1, "a", JobStatus::Completed))).unwrap();
        block_on(history.record(&report(2, "b", JobStatus::Failed))).unwrap();
        let by = |status, database: Option<&str>| HistoryFilter { status, database: database.map(str::to_owned) };
        assert_eq!(ids(&block_on(history.recent(by(Some(JobStatus::Failed), None), 10)).unwrap()), ["job_2"]);
        assert_eq!(ids(&block_on(history.recent(by(None, Some("a")), 10)).unwrap()), ["job_1"]);
        assert_eq!(block_on(history.count(by(None, None))).unwrap(), 2);
        assert_eq!(block_on(history.job("job_1")).unwrap(), Some(report(1, "a", JobStatus::Completed)));
        assert_eq!(block_on(history.job("job_9")).unwrap(), None);
    }

    #[test]
    fn a_report_that_is_written_twice_counts_once() {
        let history = History::new(StateDb::in_memory().unwrap(), 10);
        for _ in 0..2 {
            block_on(history.record(&report(1, "a", JobStatus::Completed))).unwrap();
        }
        assert_eq!(block_on(history.totals()).unwrap().all.jobs_completed, 1);
    }

    #[test]
    fn everything_is_there_after_the_file_was_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("arc.db");
        let open = || History::new(StateDb::open(&path).unwrap(), 10);
        block_on(open().record(&report(1, "a", JobStatus::Completed))).unwrap();
        assert_eq!(ids(&block_on(open().recent(HistoryFilter::default(), 10)).unwrap()), ["job_1"]);
        assert_eq!(block_on(open().totals()).unwrap().databases["a"].bytes_after, 400);
    }
}
