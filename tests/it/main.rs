//! All integration tests, in one binary: each further one would link DuckDB again.

mod config;
