//! All integration tests, in one binary: each further one would link DuckDB again.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test, too; clippy exempts only the test functions")]

mod architecture;
mod bad_input;
mod children;
mod commands;
mod concurrent;
mod config;
mod crash;
mod environment;
mod faults;
mod fidelity;
mod model;
mod readme;
mod shapes;
mod support;
mod traps;
