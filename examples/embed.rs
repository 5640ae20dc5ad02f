//! Arc inside of another axum application: its routes below `/arc`, beside a route of the application's own.
//!
//! `cargo run --release --example embed` writes a few small files, compacts them through the API, and stops.

#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;

use arc::Server;
use arc::auth::Role;
use arc::clock::{Clock, SystemClock};
use arc::config::{Config, Input};
use arc::server::ShutdownReport;
use axum::Router;
use axum::routing::get;
use serde_json::Value;
use tokio::net::TcpListener;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What the application's own route said.
    pub hello: String,
    /// The answer of `GET /arc/api/compaction/history`.
    pub history: Value,
    /// How the stop went.
    pub stopped: ShutdownReport,
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let outcome = run(folder.path()).await?;
    println!("/hello: {}", outcome.hello);
    println!("/arc/api/compaction/history: {:#}", outcome.history);
    println!("stopped in {:?}", outcome.stopped.duration);
    Ok(())
}

/// The whole life of an application, in `folder`.
pub async fn run(folder: &Path) -> Result<Outcome> {
    write_small_files(folder)?;
    let server = Server::new(&config(folder)?)?;
    let token = server.tokens().create("application", Role::Admin, SystemClock.now()).await?.token;
    let application = Router::new().route("/hello", get(async || "hello")).nest("/arc", server.router());

    server.start().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let handle = server.handle();
    // The addresses of clients are for counting wrong tokens; axum hands them on when it is asked to.
    let service = application.into_make_service_with_connect_info::<SocketAddr>();
    let serving = axum::serve(listener, service).with_graceful_shutdown({
        let handle = handle.clone();
        async move { handle.stopping().await }
    });
    let serving = tokio::spawn(async move { serving.await });

    let key = token.reveal().to_owned();
    let (hello, history) = tokio::task::spawn_blocking(move || client(address, &key)).await??;
    handle.shutdown();
    serving.await??;
    let stopped = server.stop().await;
    Ok(Outcome { hello, history, stopped })
}

/// Merges run in this process: it cannot start itself as a merge worker, as the program `arc` does. Work starts when it is asked
/// for, not by the hour: the schedule is a leap day.
fn config(folder: &Path) -> Result<Config> {
    let file = folder.join("arc.conf");
    let at = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "[state]\ndb_path = '{}'\n[storage.local]\nbase_path = '{}'\n\
         [compaction]\ntemp_dir = '{}'\nisolation = 'in_process'\nmin_files = 2\nsettle_seconds = 0\n\
         schedule = '0 3 29 2 *'\n",
        at("arc.db"),
        at("data"),
        at("temp"),
    );
    std::fs::write(&file, text)?;
    Ok(Config::load(&Input { file: Some(file), ..Input::default() })?)
}

/// What ingestion does: an hour of one measurement in many small files.
fn write_small_files(folder: &Path) -> Result<()> {
    let hour = folder.join("data/production/cpu/2025/10/08/14");
    std::fs::create_dir_all(&hour)?;
    let db = duckdb::Connection::open_in_memory()?;
    for file in 0..5 {
        let path = hour.join(format!("cpu_{file}.parquet"));
        db.execute_batch(&format!(
            "COPY (SELECT make_timestamp(1759932000000000 + (i + {file} * 1000) * 1000) AS time, 'server-1' AS host, i AS usage \
             FROM range(1000) r(i)) TO '{}' (FORMAT parquet)",
            path.display()
        ))?;
    }
    Ok(())
}

/// A client of both: asks the application, starts a cycle, follows it to its end, and reads the history.
fn client(address: SocketAddr, token: &str) -> Result<(String, Value)> {
    let url = |path: &str| format!("http://{address}{path}");
    let hello = ureq::get(url("/hello")).call()?.body_mut().read_to_string()?;
    // Followed before the start, so that the end cannot be missed.
    let events = ureq::get(url("/arc/api/compaction/events")).header("x-api-key", token).call()?;
    ureq::post(url("/arc/api/compaction/trigger")).header("x-api-key", token).send_empty()?;
    for line in BufReader::new(events.into_body().into_reader()).lines() {
        if line? == "event: cycle_finished" {
            break;
        }
    }
    let history =
        ureq::get(url("/arc/api/compaction/history")).header("x-api-key", token).call()?.body_mut().read_json()?;
    Ok((hello, history))
}
