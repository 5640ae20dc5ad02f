//! `arc config show` and `arc config check`.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::EXIT_USAGE;
use super::globals::{GlobalArgs, load};
use crate::config::{Config, ConfigError};

/// `arc config …`
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the effective value of every key and where it comes from
    Show,
    /// Check the configuration and report every problem
    Check,
}

/// Runs the command. The exit code is 2 when the configuration has problems.
///
/// # Errors
/// When the output cannot be written.
pub fn run(args: &ConfigArgs, globals: &GlobalArgs) -> anyhow::Result<ExitCode> {
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    let loaded = load(globals);
    match (&args.command, &loaded) {
        (ConfigCommand::Show, Ok(config)) => show(config, globals.json, &mut out)?,
        (ConfigCommand::Check, Ok(config)) => valid(config, globals.json, &mut out)?,
        (ConfigCommand::Check, Err(error)) if globals.json => invalid_json(error, &mut out)?,
        (_, Err(error)) => writeln!(err, "{error}")?,
    }
    Ok(if loaded.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) })
}

/// The effective values: a table of key, value and source, or `{key: {value, source}}`.
///
/// # Errors
/// When `out` cannot be written.
pub fn show(config: &Config, json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        let mut object = Map::new();
        for entry in config.entries() {
            let mut value = json!({ "value": entry.value.to_json(), "source": entry.source.to_string() });
            if let Some(note) = &entry.note {
                value["note"] = Value::from(note.as_str());
            }
            object.insert(entry.key.clone(), value);
        }
        return writeln!(out, "{:#}", Value::Object(object));
    }
    let rows: Vec<[String; 3]> = config
        .entries()
        .iter()
        .map(|entry| {
            let note = entry.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
            [entry.key.clone(), format!("{}{note}", entry.value), entry.source.to_string()]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (keys, values) = (width(0), width(1));
    for [key, value, source] in &rows {
        writeln!(out, "{key:keys$}  {value:values$}  {source}")?;
    }
    if !config.foreign_sections.is_empty() {
        writeln!(out, "not read here: [{}]", config.foreign_sections.join("], ["))?;
    }
    Ok(())
}

fn valid(config: &Config, json: bool, out: &mut impl Write) -> io::Result<()> {
    let file = config.file.as_ref().map(|path| path.display().to_string());
    if json {
        return writeln!(out, "{:#}", json!({ "valid": true, "file": file, "problems": [] }));
    }
    writeln!(out, "the configuration is valid ({})", file.as_deref().unwrap_or("no file, defaults and environment"))
}

fn invalid_json(error: &ConfigError, out: &mut impl Write) -> io::Result<()> {
    let problems: Vec<Value> = error
        .problems()
        .iter()
        .map(|p| json!({ "key": p.key, "value": p.value, "source": p.source.to_string(), "rule": p.rule }))
        .collect();
    writeln!(out, "{:#}", json!({ "valid": false, "problems": problems }))
}
