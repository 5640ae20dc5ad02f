//! Arc's compaction service: merges the many small Parquet files of each finished hour into few large, sorted ones.

pub mod clock;
pub mod lock;
pub mod merge;
pub mod partition;
pub mod storage;
