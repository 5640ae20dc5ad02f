//! The compaction service.

pub mod settings;
