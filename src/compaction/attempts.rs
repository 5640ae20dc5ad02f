//! The attempts that have not ended well, in the state database.
//!
//! ```text
//! begin     the attempt is written down as failed, with its number          before any work
//! end       succeeded: the row goes · does not count: the row that was there before comes back · failed: the reason
//! killed    nothing: the row already says so                                T31
//! ```
//!
//! What must hold: `begin` is durable before a file is fetched; an end changes only the row that its own `begin` wrote,
//! because a worker that lost its lease may end long after another one has begun.
//!
//! Deliberately not here: what follows from it ([`super::backoff`]). Losing the table means that failing partitions are
//! tried at once again, nothing else.

use std::collections::HashMap;

use chrono::{DateTime, SubsecRound, Utc};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::backoff::{Failures, next_number, wait_after};
use super::ledger::{parse_time, shorten, time_text};
use crate::partition::PartitionId;
use crate::state::{Failure, StateDb, StateError};

/// Partitions with failures that are remembered. Beyond that those whose last attempt is longest ago are forgotten.
pub const MAX_FAILING_PARTITIONS: usize = 10_000;

/// What an attempt leaves behind that does not come to an end.
const NO_END: &str = "the program ended while the job was running, or the job is still running";

const TABLE: &str = "compaction_attempts";
const COLUMNS: &str = "partition_path, inputs, attempts, last_started_at, not_before, last_error, until_changed";

/// The table.
#[derive(Debug, Clone)]
pub struct Attempts {
    state: StateDb,
}

/// An attempt that was written down and has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    partition: String,
    written: Failures,
    previous: Option<Failures>,
}

impl Begun {
    /// The attempt's number since the last success, from 1.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.written.attempts
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    Succeeded,
    DoesNotCount,
    Failed { error: String, until_changed: bool },
}

impl Attempts {
    #[must_use]
    pub fn new(state: StateDb) -> Self {
        Self { state }
    }

    /// Every partition with failures, by its path. At most [`MAX_FAILING_PARTITIONS`].
    pub async fn all(&self) -> Result<HashMap<String, Failures>, StateError> {
        self.state
            .read(|connection| {
                let sql = format!("SELECT {COLUMNS} FROM {TABLE} ORDER BY last_started_at DESC LIMIT ?1");
                let mut statement = connection.prepare_cached(&sql)?;
                let rows = statement.query_map([limit(MAX_FAILING_PARTITIONS)], |row| Ok(read(row)))?;
                rows.map(|row| row?).collect()
            })
            .await
    }

    /// The failures of one partition.
    pub async fn of(&self, partition: &PartitionId) -> Result<Option<Failures>, StateError> {
        let path = partition.to_string();
        self.state.read(move |connection| find(connection, &path)).await
    }

    /// Writes down that an attempt with these inputs begins.
    pub async fn begin(&self, partition: &PartitionId, inputs: &str, now: DateTime<Utc>) -> Result<Begun, StateError> {
        let (partition, inputs) = (partition.to_string(), inputs.to_owned());
        // As it will be read back.
        let now = now.trunc_subsecs(3);
        self.state
            .write(move |connection| {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let previous = find(&transaction, &partition)?;
                let attempts = next_number(previous.as_ref(), &inputs);
                let written = Failures {
                    inputs,
                    attempts,
                    last_started_at: now,
                    not_before: now + wait_after(attempts),
                    last_error: NO_END.to_owned(),
                    until_changed: false,
                };
                put(&transaction, &partition, &written)?;
                forget_beyond(&transaction, MAX_FAILING_PARTITIONS)?;
                transaction.commit()?;
                Ok(Begun { partition, written, previous })
            })
            .await
    }

    /// Writes down how an attempt ended.
    pub async fn end(&self, begun: Begun, ended: Ended, now: DateTime<Utc>) -> Result<(), StateError> {
        self.state
            .write(move |connection| {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let Begun { partition, written, previous } = begun;
                if find(&transaction, &partition)?.as_ref() != Some(&written) {
                    return Ok(()); // another attempt's by now
                }
                let row = match ended {
                    Ended::Succeeded => None,
                    Ended::DoesNotCount => previous,
                    Ended::Failed { error, until_changed } => Some(Failures {
                        not_before: now + wait_after(written.attempts),
                        last_error: shorten(&error),
                        until_changed,
                        ..written
                    }),
                };
                match row {
                    Some(row) => put(&transaction, &partition, &row)?,
                    None => {
                        transaction
                            .prepare_cached("DELETE FROM compaction_attempts WHERE partition_path = ?1")?
                            .execute([&partition])?;
                    }
                }
                transaction.commit()?;
                Ok(())
            })
            .await
    }
}

fn find(connection: &Connection, partition: &str) -> Result<Option<Failures>, Failure> {
    let sql = format!("SELECT {COLUMNS} FROM {TABLE} WHERE partition_path = ?1");
    let found = connection.prepare_cached(&sql)?.query_row([partition], |row| Ok(read(row))).optional()?;
    Ok(found.transpose()?.map(|(_, failures)| failures))
}

fn put(connection: &Connection, partition: &str, failures: &Failures) -> Result<(), Failure> {
    let sql = format!("INSERT OR REPLACE INTO {TABLE} ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)");
    connection.prepare_cached(&sql)?.execute(params![
        partition,
        failures.inputs,
        failures.attempts,
        time_text(failures.last_started_at),
        time_text(failures.not_before),
        failures.last_error,
        failures.until_changed,
    ])?;
    Ok(())
}

fn limit(partitions: usize) -> i64 {
    i64::try_from(partitions).expect("a limit of this module")
}

fn forget_beyond(connection: &Connection, keep: usize) -> Result<(), Failure> {
    connection
        .prepare_cached(
            "DELETE FROM compaction_attempts WHERE partition_path IN
             (SELECT partition_path FROM compaction_attempts ORDER BY last_started_at DESC LIMIT -1 OFFSET ?1)",
        )?
        .execute([limit(keep)])?;
    Ok(())
}

fn read(row: &Row<'_>) -> Result<(String, Failures), Failure> {
    let path: String = row.get(0)?;
    let time = |column: &str| -> Result<DateTime<Utc>, Failure> {
        let value: Option<String> = row.get(column)?;
        parse_time(TABLE, &path, column, &value.unwrap_or_default())
    };
    let failures = Failures {
        inputs: row.get(1)?,
        attempts: row.get(2)?,
        last_started_at: time("last_started_at")?,
        not_before: time("not_before")?,
        last_error: row.get::<_, Option<String>>(5)?.unwrap_or_default(),
        until_changed: row.get(6)?,
    };
    Ok((path, failures))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compaction::testing::{at, partition};

    fn table() -> Attempts {
        Attempts::new(StateDb::in_memory().unwrap())
    }

    fn failed(error: &str) -> Ended {
        Ended::Failed { error: error.into(), until_changed: false }
    }

    /// T31: nothing more than the beginning is needed for an attempt to count.
    #[tokio::test]
    async fn attempts_that_never_end_are_counted() {
        let table = table();
        for number in 1..=3 {
            assert_eq!(table.begin(&partition(), "a", at(15, number)).await.unwrap().number(), number);
        }
        let failures = table.of(&partition()).await.unwrap().unwrap();
        assert_eq!((failures.attempts, failures.last_error.as_str()), (3, NO_END));
        assert_eq!(failures.not_before, at(15, 3) + wait_after(3));
        assert_eq!(table.all().await.unwrap(), HashMap::from([(partition().to_string(), failures)]));
    }

    #[tokio::test]
    async fn success_forgets_failure_explains_and_a_stop_leaves_things_as_they_were() {
        let table = table();
        let begun = table.begin(&partition(), "a", at(15, 0)).await.unwrap();
        table.end(begun, failed("no luck"), at(15, 30)).await.unwrap();
        let after_one = table.of(&partition()).await.unwrap().unwrap();
        assert_eq!((after_one.attempts, after_one.last_error.as_str()), (1, "no luck"));

        let begun = table.begin(&partition(), "b", at(16, 0)).await.unwrap();
        table.end(begun, Ended::DoesNotCount, at(16, 30)).await.unwrap();
        assert_eq!(table.of(&partition()).await.unwrap().unwrap(), after_one);

        let begun = table.begin(&partition(), "b", at(17, 0)).await.unwrap();
        table.end(begun, failed("again"), at(17, 30)).await.unwrap();
        let after_two = table.of(&partition()).await.unwrap().unwrap();
        assert_eq!(after_two.not_before, at(17, 35), "the wait begins at the end");

        let begun = table.begin(&partition(), "b", at(18, 0)).await.unwrap();
        table.end(begun, Ended::Succeeded, at(18, 1)).await.unwrap();
        assert_eq!(table.of(&partition()).await.unwrap(), None);
        let begun = table.begin(&partition(), "b", at(19, 0)).await.unwrap();
        assert_eq!(begun.number(), 1);
        table.end(begun, Ended::DoesNotCount, at(19, 1)).await.unwrap();
        assert_eq!(table.of(&partition()).await.unwrap(), None);
    }

    /// A worker that lost its lease ends after the next one has begun.
    #[tokio::test]
    async fn a_late_end_does_not_touch_the_next_attempt() {
        let table = table();
        let late = table.begin(&partition(), "a", at(15, 0)).await.unwrap();
        table.begin(&partition(), "a", at(15, 1)).await.unwrap();
        let row = table.of(&partition()).await.unwrap();
        for ended in [Ended::Succeeded, Ended::DoesNotCount, failed("late")] {
            table.end(late.clone(), ended, at(15, 2)).await.unwrap();
            assert_eq!(table.of(&partition()).await.unwrap(), row);
        }
    }

    #[tokio::test]
    async fn the_oldest_are_forgotten_beyond_the_limit() {
        let state = StateDb::in_memory().unwrap();
        let table = Attempts::new(state.clone());
        for minute in 0..4 {
            let partition = format!("db/cpu/2025/10/08/{minute:02}").parse().unwrap();
            table.begin(&partition, "a", at(15, minute)).await.unwrap();
        }
        state.write(|connection| forget_beyond(connection, 2)).await.unwrap();
        let mut left: Vec<String> = table.all().await.unwrap().into_keys().collect();
        left.sort();
        assert_eq!(left, ["db/cpu/2025/10/08/02", "db/cpu/2025/10/08/03"]);
    }
}
