//! All integration tests, in one binary: each further one would link DuckDB again.

mod architecture;
mod bad_input;
mod commands;
mod concurrent;
mod config;
mod crash;
mod environment;
mod shapes;
mod support;
