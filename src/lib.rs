//! Arc's compaction service: merges the many small Parquet files of each finished hour into few large, sorted ones, and
//! deletes the originals only after proof.
//!
//! # The map
//!
//! ```text
//! main ─> cli ───────────────> server            composition root: configuration in, wired parts out
//!          │  serve compact plan  ├─> config      file, environment, flags; every problem at once
//!          │  jobs locks token    ├─> telemetry   log lines
//!          │  quarantine demo     ├─> auth        tokens: who may ask
//!          │  verify adopt config ├─> api ──────> monitoring   ready or not, and numbers ──> metrics
//!          │  (merge_worker)      ├─> scheduler   schedules: when a cycle starts
//!          v                      v
//!        compaction  ── what to merge, how a job goes, the commit protocol, what readers see
//!          │      │       │
//!          v      v       v
//!       storage  lock   merge ── survey, schema, slices (by column or DuckDB), stitch, proof; in a child
//!          │      ├──> state ── the SQLite file: leases (or in the bucket), history, quarantine, tokens
//!          └──────┴───────┴──> partition, clock ── vocabulary
//! ```
//!
//! Imports point downwards only; `tests/it/architecture.rs` checks it. `storage` and `merge` know neither each other nor `lock`;
//! `lock` knows `storage`, where leases can be, and takes from it what the answers of a store mean.
//! `partition`, `clock`, `schedule`, `secret`, `state` and `metrics` know nobody. Only `server`, `cli` and tests name
//! concrete adapters.
//!
//! # Where to look
//!
//! - What must hold, and the commit protocol: [`compaction`].
//! - How a job goes, step by step: `compaction/job.rs`.
//! - How files are merged and proven: [`merge`].
//! - Which files count, for a reader: [`compaction::snapshot`].
//! - What storage promises: [`storage`]. What a lease promises: [`lock`].
//! - When a cycle starts: [`scheduler`]. What clients can ask: [`api`], all routes on one page. Limits and shutdown: [`server`].
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
//! [`Server`] is the whole service, to be mounted into another axum application (`examples/embed.rs`). Only to compact:
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

#[allow(unused_qualifications, reason = "what utoipa generates names types in full")]
pub mod api;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod compaction;
pub mod config;
pub mod lock;
pub mod merge;
pub mod metrics;
pub mod monitoring;
pub mod partition;
pub mod schedule;
pub mod scheduler;
pub mod secret;
pub mod server;
pub mod state;
pub mod storage;
pub mod telemetry;

pub use server::{Server, ServerHandle};
