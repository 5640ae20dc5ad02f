//! `arc quarantine list` and `arc quarantine clear`.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::globals::GlobalArgs;
use super::{format, table};
use crate::compaction::quarantine::{Quarantine, QuarantineFilter, QuarantinedFile};
use crate::config::Config;
use crate::server::open_state;

/// `arc quarantine …`
#[derive(Debug, Args)]
pub struct QuarantineArgs {
    #[command(subcommand)]
    command: QuarantineCommand,
}

#[derive(Debug, Subcommand)]
enum QuarantineCommand {
    /// Show the files that compaction leaves out because they are damaged
    List(ListArgs),
    /// Forget files, so that the next compaction tries them again; the files themselves are never touched
    Clear(ClearArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only this database
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ClearArgs {
    /// Numbers that `arc quarantine list` shows
    #[arg(value_name = "ID")]
    ids: Vec<u64>,

    /// Every file of this database
    #[arg(long, value_name = "NAME")]
    database: Option<String>,

    /// Every file
    #[arg(long)]
    all: bool,
}

/// Runs the command. The exit code is 1 when an id to be cleared does not exist.
///
/// # Errors
/// When the state database cannot be used, or the output not be written.
pub async fn run(args: &QuarantineArgs, globals: &GlobalArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let quarantine = Quarantine::new(open_state(config)?);
    match &args.command {
        QuarantineCommand::List(args) => {
            let files = quarantine.list(&QuarantineFilter { database: args.database.clone() }).await?;
            show(&files, globals.json, &mut io::stdout().lock())?;
            Ok(ExitCode::SUCCESS)
        }
        QuarantineCommand::Clear(args) => clear(&quarantine, args, globals.json).await,
    }
}

fn show(files: &[QuarantinedFile], json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        let files: Vec<_> = files.iter().map(QuarantinedFile::to_report).collect();
        return writeln!(out, "{:#}", json!({ "count": files.len(), "files": files }));
    }
    if files.is_empty() {
        return writeln!(out, "no files are in quarantine");
    }
    let rows: Vec<[String; 6]> = files
        .iter()
        .map(|file| {
            [
                file.id.to_string(),
                format!("{}/{}", file.partition, file.name),
                format::bytes(file.size_bytes),
                format::time(file.first_seen_at),
                format::time(file.retry_at),
                file.reason.to_string(),
            ]
        })
        .collect();
    table::print(["ID", "FILE", "SIZE", "FIRST SEEN", "TRIED AGAIN", "REASON"], &rows, out)
}

async fn clear(quarantine: &Quarantine, args: &ClearArgs, json: bool) -> anyhow::Result<ExitCode> {
    let (mut cleared, mut unknown) = (0, Vec::new());
    if args.all || args.database.is_some() {
        cleared = quarantine.clear_all(&QuarantineFilter { database: args.database.clone() }).await?;
    }
    for id in &args.ids {
        if quarantine.clear(*id).await? {
            cleared += 1;
        } else {
            unknown.push(*id);
        }
    }
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{:#}", json!({ "cleared": cleared, "unknown": unknown }))?;
    } else {
        writeln!(out, "{} cleared: the next compaction tries again", format::count(cleared, "file"))?;
        for id in &unknown {
            writeln!(io::stderr(), "there is no file {id} in quarantine")?;
        }
    }
    Ok(if unknown.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
