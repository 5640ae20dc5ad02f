//! The command line: one file per command.

pub mod config;
pub mod globals;

/// Exit code for wrong usage or configuration.
pub const EXIT_USAGE: u8 = 2;
