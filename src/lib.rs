//! Arc's compaction service: merges the many small Parquet files of each finished hour into few large, sorted ones.

pub mod cli;
pub mod clock;
pub mod compaction;
pub mod config;
pub mod lock;
pub mod merge;
pub mod partition;
pub mod schedule;
pub mod server;
pub mod storage;
pub mod telemetry;
