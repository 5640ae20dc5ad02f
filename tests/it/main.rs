//! All integration tests, in one binary: each further one would link DuckDB again.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test, too; clippy exempts only the test functions")]
#![allow(clippy::print_stdout, reason = "tests say what they measured, and what they could not test")]

mod again;
mod api;
mod architecture;
mod auth;
mod bad_input;
mod children;
mod commands;
mod concurrent;
mod config;
mod corruption;
mod crash;
mod crash_matrix;
mod dashboard;
mod embed;
mod environment;
mod faults;
mod fetched;
mod fidelity;
mod frozen;
mod fuzz;
mod fuzz_mutation;
mod fuzz_targets;
#[cfg(target_os = "linux")]
mod kill;
mod logs;
mod model;
mod mutations;
mod numbers;
mod object_store;
mod paged;
mod power;
mod quarantine;
mod readme;
mod requests;
mod scheduler;
mod server;
mod shapes;
mod sim;
mod streaming;
mod support;
mod traps;
mod verify;
