//! `arc locks`: which partitions are being worked on, and by whom.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::json;

use super::globals::GlobalArgs;
use super::{format, table};
use crate::config::Config;
use crate::lock::Lease;
use crate::server::open_locks;

/// Runs the command.
///
/// # Errors
/// When the state database, or the bucket with the locks, cannot be used, or the output not be written.
pub async fn run(globals: &GlobalArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let leases = open_locks(config)?.active_locks().await?;
    show(&leases, globals.json, &mut io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}

fn show(leases: &[Lease], json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        let locks: Vec<_> = leases
            .iter()
            .map(|lease| {
                json!({
                    "database": lease.partition.database(),
                    "measurement": lease.partition.measurement(),
                    "partition_path": lease.partition.path_in_database(),
                    "worker_id": lease.worker_id.to_string(),
                    "token": lease.token,
                    "locked_at": lease.locked_at,
                    "expires_at": lease.expires_at,
                })
            })
            .collect();
        return writeln!(out, "{:#}", json!({ "count": locks.len(), "locks": locks }));
    }
    if leases.is_empty() {
        return writeln!(out, "no partition is locked");
    }
    let rows: Vec<[String; 4]> = leases
        .iter()
        .map(|lease| {
            [
                lease.partition.to_string(),
                format::time(lease.locked_at),
                format::time(lease.expires_at),
                lease.worker_id.to_string(),
            ]
        })
        .collect();
    table::print(["PARTITION", "SINCE", "UNTIL", "WORKER"], &rows, out)
}
