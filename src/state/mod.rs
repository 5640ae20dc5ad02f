//! The state database: one SQLite file with everything that is not data. Leases, history, attempts, quarantine, the
//! service's switches, tokens of the API.
//!
//! ```text
//! StateDb ──┬── writer thread ── connection     one change after another, each one transaction
//!           └── reader thread ── connection     never waits for a change, not even of another process
//! ```
//!
//! What must hold: deleting the file loses history, never data. SQLite blocks, so it never runs on an async thread; the
//! queues to its threads are bounded. Several processes may use one file.
//!
//! Deliberately not here: what the tables mean. Each user of a table keeps its SQL in its own module.

mod database;
mod error;
mod migrations;
mod watch;

pub use database::StateDb;
pub use error::{Failure, StateError};
pub use watch::{Access, Watch};
