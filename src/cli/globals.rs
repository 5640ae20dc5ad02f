//! Flags that every command has.

use std::path::PathBuf;

use clap::Args;

use crate::config::{Config, ConfigError, Flag, Input};

/// Flags that every command has.
#[derive(Debug, Clone, Default, Args)]
pub struct GlobalArgs {
    /// Configuration file; without it the one that `ARC_CONFIG_FILE` names, else ./arc.conf if there is one
    #[arg(long, value_name = "PATH", global = true)]
    pub config: Option<PathBuf>,

    /// Log only what is at least this important: trace, debug, info, warn or error
    #[arg(long, value_name = "LEVEL", global = true)]
    pub log_level: Option<String>,

    /// Print the result as JSON on standard output; logs go to standard error
    #[arg(long, global = true)]
    pub json: bool,
}

/// The configuration of this process.
///
/// # Errors
/// Everything that is wrong with it; the exit code for that is [`super::EXIT_USAGE`].
pub fn load(globals: &GlobalArgs) -> Result<Config, ConfigError> {
    load_with(globals, Vec::new())
}

/// The configuration of this process, with the flags of a command.
///
/// # Errors
/// As [`load`].
pub fn load_with(globals: &GlobalArgs, mut flags: Vec<Flag>) -> Result<Config, ConfigError> {
    if let Some(level) = &globals.log_level {
        flags.push(Flag { key: "logging.level", value: level.clone(), flag: "--log-level" });
    }
    Config::load(&Input::of_process(globals.config.clone(), flags))
}
