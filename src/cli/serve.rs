//! `arc serve`: the server, until it is told to stop.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use tokio::net::TcpListener;
use tracing::info;

use super::compact::log_foreign_sections;
use super::globals::GlobalArgs;
use super::interrupt;
use crate::auth::NewToken;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::server::{Server, listen, open_storage};
use crate::telemetry::{self, LogStream};

/// How long the process waits for threads that are still in a system call or a merge of this process.
const LAST_THREADS: Duration = Duration::from_secs(1);

/// Runs the command. The exit code is 0 after every stop that was asked for, also when something had to be abandoned: what
/// that was stands in the log, and the next start settles it.
pub fn run(globals: &GlobalArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(globals, config));
    runtime.shutdown_timeout(LAST_THREADS);
    result
}

async fn serve(globals: &GlobalArgs, config: &Config) -> anyhow::Result<ExitCode> {
    // The output of a server is its log; with --json it is the address, and the log goes to standard error.
    telemetry::init(&config.logging, if globals.json { LogStream::Stderr } else { LogStream::Stdout })?;
    log_foreign_sections(config);
    let listener = listen(&config.server).await?;
    let server = Server::new(config)?;
    let _signals = interrupt::watch(server.stop_token())?;
    server.check_storage().await?;
    if config.auth.enabled
        && let Some(first) = server.tokens().create_first(SystemClock.now()).await?
    {
        hand_over(&first)?;
    }
    announce(globals, config, &listener)?;
    server.run(listener).await?;
    Ok(ExitCode::SUCCESS)
}

/// Says where the server is, which with port 0 nobody knows before.
fn announce(globals: &GlobalArgs, config: &Config, listener: &TcpListener) -> anyhow::Result<()> {
    let address: SocketAddr = listener.local_addr().context("the port that was just opened has no address")?;
    let version = env!("CARGO_PKG_VERSION");
    let storage = open_storage(config)?.location().to_string();
    let schedule = config.schedule.as_str();
    info!(target: "api", version, %address, storage, schedule, auth = config.auth.enabled,
        "Arc {version} listening on http://{address} (storage: {storage}, schedule: {schedule})");
    if globals.json {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", json!({ "address": address.to_string(), "port": address.port(), "version": version }))?;
        out.flush()?;
    }
    Ok(())
}

/// The only time that the first token is seen, and never in the log: logs are collected and kept.
fn hand_over(first: &NewToken) -> io::Result<()> {
    let mut err = io::stderr().lock();
    writeln!(err, "First start: there was no API token, so one was made. It is shown this once, keep it safe:")?;
    writeln!(err, "{}", first.token.reveal())?;
    writeln!(
        err,
        "It may do everything; `arc token create` makes others, `arc token revoke {}` takes it back.",
        first.name
    )
}
