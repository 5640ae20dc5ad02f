//! Arc's compaction service: merges the many small Parquet files of each finished hour into few large, sorted ones, and
//! deletes the originals only after proof.
//!
//! # The map
//!
//! ```text
//! main ─> cli ───────────────> server            composition root: configuration in, wired parts out
//!          │  compact plan verify │
//!          │  adopt demo config   ├─> config      file, environment, flags; every problem at once
//!          │  (merge_worker)      ├─> telemetry   log lines
//!          v                      v
//!        compaction  ── what to merge, how a job goes, the commit protocol, what readers see
//!          │      │       │
//!          v      v       v
//!       storage  lock   merge ── survey, schema, slices, DuckDB, stitch, proof; in a child process
//!          │      ├──> state ── the SQLite file: leases, history, quarantine, tokens
//!          └──────┴───────┴──> partition, clock ── vocabulary
//! ```
//!
//! Imports point downwards only; `tests/it/architecture.rs` checks it. `storage`, `lock` and `merge` do not know each other.
//! `partition`, `clock`, `schedule` and `state` know nobody. Only `server`, `cli` and tests name concrete adapters.
//!
//! # Where to look
//!
//! - What must hold, and the commit protocol: [`compaction`].
//! - How a job goes, step by step: `compaction/job.rs`.
//! - How files are merged and proven: [`merge`].
//! - Which files count, for a reader: [`compaction::snapshot`].
//! - What storage promises: [`storage`]. What a lease promises: [`lock`].
//! - Every setting: [`config`], one table.
//!
//! # Words
//!
//! A *partition* is one hour of one measurement of one database. A *data file* is a Parquet object in it, *raw* (written by
//! ingestion) or *compacted*. A *plan* is the intent to merge some files, a *job* one attempt to carry it out, a *report* its
//! past; a *cycle* is one scan and the jobs it started. A *record* says which compacted files are *live* and which inputs are
//! *retired*; the *head* is the record with the highest *generation*. A *lease* is the exclusive right to work on a partition
//! for a while. A *slice* is a range of time that is merged on its own.
//!
//! # Embedding
//!
//! ```no_run
//! # use arc::{config::{Config, Input}, compaction::{Scope, events::EventSink}, server::build_manager};
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::load(&Input::default())?;
//! let manager = build_manager(&config, EventSink::ignore())?;
//! let report = manager.run_compaction_cycle(Scope::default(), Default::default()).await?;
//! println!("{} jobs completed", report.jobs_completed);
//! # Ok(())
//! # }
//! ```

pub mod cli;
pub mod clock;
pub mod compaction;
pub mod config;
pub mod lock;
pub mod merge;
pub mod partition;
pub mod schedule;
pub mod server;
pub mod state;
pub mod storage;
pub mod telemetry;
