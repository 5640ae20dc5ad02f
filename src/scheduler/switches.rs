//! What the scheduler keeps in the state database, so that it survives a restart: two rows of `service_switches`.
//!
//! - `paused`: there while compaction is paused; its value is the time of the pause.
//! - `last_run`: when the last cycle started. Of several servers on one database it is the last one of any.

use chrono::{DateTime, SecondsFormat, Utc};
use rusqlite::Connection;

use crate::schedule::Schedule;
use crate::state::{Failure, StateDb, StateError};

const PAUSED: &str = "paused";
const LAST_RUN: &str = "last_run";

/// What was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Switches {
    pub paused: Option<Paused>,
    pub last_run: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paused {
    /// `None`: the row does not say. It is a pause all the same.
    pub since: Option<DateTime<Utc>>,
}

pub(super) async fn read(state: &StateDb) -> Result<Switches, StateError> {
    state
        .read(|connection| {
            let paused = value(connection, PAUSED)?.map(|value| Paused { since: time(&value) });
            let last_run = value(connection, LAST_RUN)?.as_deref().and_then(time);
            Ok(Switches { paused, last_run })
        })
        .await
}

/// The first of several pauses counts.
pub(super) async fn pause(state: &StateDb, now: DateTime<Utc>) -> Result<(), StateError> {
    let sql = "INSERT INTO service_switches VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING";
    state.write(move |connection| Ok(connection.execute(sql, [PAUSED, &text(now)])?)).await.map(|_| ())
}

pub(super) async fn resume(state: &StateDb) -> Result<(), StateError> {
    let sql = "DELETE FROM service_switches WHERE name = ?1";
    state.write(move |connection| Ok(connection.execute(sql, [PAUSED])?)).await.map(|_| ())
}

pub(super) async fn ran(state: &StateDb, at: DateTime<Utc>) -> Result<(), StateError> {
    let sql = "INSERT INTO service_switches VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    state.write(move |connection| Ok(connection.execute(sql, [LAST_RUN, &text(at)])?)).await.map(|_| ())
}

/// Schedules in one text, for a log line.
pub(super) fn names(schedules: &[Schedule]) -> String {
    schedules.iter().map(Schedule::as_str).collect::<Vec<_>>().join("; ")
}

fn value(connection: &Connection, name: &str) -> Result<Option<String>, Failure> {
    let mut statement = connection.prepare_cached("SELECT value FROM service_switches WHERE name = ?1")?;
    let mut rows = statement.query([name])?;
    Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    text.parse().ok()
}
