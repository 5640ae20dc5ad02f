//! The real server: starting, stopping, being stopped while it works, and running out of things.

use std::io::{Read, Write};
use std::net::TcpListener;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::support::served::{Served, TOKEN};
use crate::support::{Arc, PARTITION, telemetry};

/// A partition whose merge takes a moment.
fn work(arc: &Arc) {
    for i in 0..4 {
        let query = format!("{} ORDER BY hash(i)", telemetry(i * 1000, 400_000 + i * 1000));
        arc.write(PARTITION, &format!("{i}.parquet"), &query);
    }
}

/// A request whose body never comes.
fn half_a_request(server: &Served) -> std::net::TcpStream {
    let mut stream = server.connect();
    let head = format!("POST /api/compaction/trigger HTTP/1.1\r\nx-api-key: {TOKEN}\r\ncontent-length: 10\r\n");
    stream.write_all(format!("{head}expect: 100-continue\r\n\r\n").as_bytes()).unwrap();
    // "Continue" is sent when the server begins to read the body: now the request is being answered.
    let mut line = [0; 12];
    stream.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"HTTP/1.1 100");
    stream
}

fn locks(arc: &Arc) -> i64 {
    let db = rusqlite::Connection::open(arc.dir().join("arc.db")).unwrap();
    db.query_row("SELECT count(*) FROM compaction_locks", [], |row| row.get(0)).unwrap()
}

#[test]
fn arc_alone_is_arc_serve_and_the_first_line_says_where_it_is() {
    let arc = Arc::new();
    let mut server = Served::start(arc.server_command());
    let line: serde_json::Value = serde_json::from_str(&server.wait_for("listening on")).unwrap();
    assert_eq!(line["address"], server.address);
    assert!(!server.address.ends_with(":0"));
    let data = arc.data().display().to_string();
    for (field, value) in [("version", env!("CARGO_PKG_VERSION")), ("storage", &data), ("schedule", "5 * * * *")] {
        assert!(line[field].as_str().unwrap().contains(value), "{line:#}");
    }
    assert_eq!(server.send("GET", "/health", &[], "").status, 200);
    server.signal("INT");
    let (code, said) = server.end();
    assert_eq!(code, Some(0), "{said:#?}");
    assert!(said.iter().any(|line| line.contains("nothing was abandoned")), "{said:#?}");
}

#[test]
fn an_address_that_cannot_be_had_is_one_line_with_the_remedy() {
    let arc = Arc::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut command = arc.command(&["serve"]);
    let run = crate::support::Run::of(command.env("ARC_PORT", &port));
    assert_eq!(run.code, 1, "{run:#?}");
    assert_eq!(run.stderr.lines().count(), 1, "{run:#?}");
    for needed in [port.as_str(), "another process", "server.port", "ARC_PORT"] {
        assert!(run.stderr.contains(needed), "{run:#?}");
    }
    assert_eq!(run.stdout, "", "nothing had begun");
    let run = crate::support::Run::of(arc.command(&["serve"]).env("ARC_HOST", "192.0.2.1"));
    assert!(run.code == 1 && run.stderr.contains("server.host"), "{run:#?}");
    let run = crate::support::Run::of(arc.command(&["serve"]).env("ARC_HOST", "no-such-host.invalid"));
    assert!(run.code == 1 && run.stderr.contains("server.host"), "{run:#?}");
}

#[test]
fn a_signal_ends_a_running_job_at_a_safe_point_and_nothing_is_left_over() {
    let arc = Arc::new();
    work(&arc);
    let before = arc.rows(PARTITION);
    let mut server = arc.serve();
    assert_eq!(server.post("/api/compaction/trigger", "").status, 202);
    server.wait_for("Starting compaction job");
    server.signal("TERM");
    let (code, said) = server.end();
    assert_eq!(code, Some(0), "{said:#?}");
    assert!(said.iter().any(|line| line.contains("nothing was abandoned")), "{said:#?}");
    assert!(!said.iter().any(|line| line.contains("\"ERROR\"")), "{said:#?}");
    assert_eq!(locks(&arc), 0);
    arc.assert_nothing_left_over(PARTITION);
    assert_eq!(arc.rows(PARTITION), before);
    arc.compact_well();
    assert_eq!(arc.live(PARTITION).len(), 1);
    assert_eq!(arc.rows(PARTITION), before);
}

#[test]
fn a_second_signal_leaves_at_once_and_the_next_start_goes_on() {
    let arc = Arc::new();
    let mut server = arc.serve();
    let _held = half_a_request(&server);
    server.signal("TERM");
    server.wait_for("once more to leave at once");
    server.signal("TERM");
    let (code, said) = server.end();
    assert_eq!(code, Some(130), "{said:#?}");
    assert_eq!(arc.serve().get("/health").status, 200);
}

#[test]
fn what_does_not_end_in_time_is_abandoned_and_named_and_the_exit_code_is_0() {
    let arc = Arc::new();
    let server = arc.serve_with(&[("DEFAULT_API_TOKEN", TOKEN), ("SERVER_SHUTDOWN_TIMEOUT_SECONDS", "0")]);
    let _held = half_a_request(&server);
    server.signal("TERM");
    let (code, said) = server.end();
    assert_eq!(code, Some(0), "{said:#?}");
    let line = said.iter().find(|line| line.contains("abandoned")).unwrap_or_else(|| panic!("{said:#?}"));
    assert!(line.contains("1 requests"), "{line}");
}

#[test]
fn a_job_that_does_not_end_in_time_is_named_and_the_next_start_settles_it() {
    let arc = Arc::new();
    work(&arc);
    let before = arc.rows(PARTITION);
    let mut server = arc.serve_with(&[("DEFAULT_API_TOKEN", TOKEN), ("SERVER_SHUTDOWN_TIMEOUT_SECONDS", "0")]);
    assert_eq!(server.post("/api/compaction/trigger", "").status, 202);
    let started: serde_json::Value = serde_json::from_str(&server.wait_for("Starting compaction job")).unwrap();
    server.signal("TERM");
    let (code, said) = server.end();
    assert_eq!(code, Some(0), "{said:#?}");
    let job_id = started["job_id"].as_str().unwrap();
    let line = said.iter().find(|line| line.contains("Server stopped after")).unwrap_or_else(|| panic!("{said:#?}"));
    assert!(line.contains(job_id) && line.contains("the next start settles"), "{line}");
    let mut server = arc.serve();
    assert_eq!(server.post("/api/compaction/trigger", "").status, 202);
    server.wait_for("Compaction cycle completed");
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
    assert_eq!(arc.live(PARTITION).len(), 1);
    assert_eq!(arc.rows(PARTITION), before);
    assert_eq!(locks(&arc), 0);
    arc.assert_nothing_left_over(PARTITION);
}

/// Asks one thing after another over one connection until the server closes it; how many answers were good.
async fn ask_until_closed(address: String, number: usize) -> Result<usize, String> {
    const PATHS: [&str; 6] = ["status", "stats", "jobs", "history", "candidates", "locks"];
    let mut stream = BufReader::new(tokio::net::TcpStream::connect(address).await.map_err(|e| e.to_string())?);
    for answers in 0.. {
        let path = PATHS[(number + answers) % PATHS.len()];
        let ask = format!("GET /api/compaction/{path} HTTP/1.1\r\nhost: x\r\nx-api-key: {TOKEN}\r\n\r\n");
        if stream.write_all(ask.as_bytes()).await.is_err() {
            return Ok(answers);
        }
        let mut length = 0;
        loop {
            let mut line = String::new();
            match stream.read_line(&mut line).await {
                // Between two answers the server may close; in the middle of one it may not.
                Ok(0) | Err(_) if length == 0 => return Ok(answers),
                Ok(0) | Err(_) => return Err(format!("{path}: cut off in an answer")),
                Ok(_) if line == "\r\n" => break,
                Ok(_) if line.starts_with("HTTP/1.1 ") && !line.contains(" 200 ") => {
                    return Err(format!("{path}: {line}"));
                }
                Ok(_) => {
                    if let Some(value) = line.strip_prefix("content-length: ") {
                        length = value.trim().parse().unwrap();
                    }
                }
            }
        }
        stream.read_exact(&mut vec![0; length]).await.map_err(|e| format!("{path}: {e}"))?;
    }
    unreachable!()
}

#[test]
fn a_signal_under_load_ends_everything_in_time_and_the_next_start_goes_on() {
    const CLIENTS: usize = 100;
    let arc = Arc::new();
    work(&arc);
    let before = arc.rows(PARTITION);
    let mut server = arc.serve();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let clients: Vec<_> =
        (0..CLIENTS).map(|number| runtime.spawn(ask_until_closed(server.address.clone(), number))).collect();
    assert_eq!(server.post("/api/compaction/trigger", "").status, 202);
    server.wait_for("Starting compaction job");
    let begun = std::time::Instant::now();
    server.signal("TERM");
    let (code, said) = server.end();
    assert!(begun.elapsed().as_secs() < 60, "server.shutdown_timeout_seconds");
    assert_eq!(code, Some(0), "{said:#?}");
    assert!(said.iter().any(|line| line.contains("nothing was abandoned")), "{said:#?}");
    assert!(!said.iter().any(|line| line.contains("\"ERROR\"")), "{said:#?}");
    let answers = runtime.block_on(futures::future::join_all(clients));
    let failed: Vec<String> = answers.into_iter().filter_map(|answered| answered.unwrap().err()).collect();
    assert_eq!(failed, [""; 0]);
    assert_eq!(locks(&arc), 0);
    arc.assert_nothing_left_over(PARTITION);
    assert_eq!(arc.rows(PARTITION), before);
    let mut server = arc.serve();
    assert_eq!(server.post("/api/compaction/trigger", "").status, 202);
    server.wait_for("Compaction cycle completed");
    drop(server);
    assert_eq!(arc.live(PARTITION).len(), 1);
    assert_eq!(arc.rows(PARTITION), before);
}

#[test]
fn followers_of_the_events_do_not_keep_the_server_from_stopping() {
    let arc = Arc::new();
    let server = arc.serve();
    let mut follower = server.connect();
    let request = format!("GET /api/compaction/events HTTP/1.1\r\nhost: x\r\nx-api-key: {TOKEN}\r\n\r\n");
    follower.write_all(request.as_bytes()).unwrap();
    let mut first = [0; 15];
    follower.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    server.signal("TERM");
    follower.read_to_end(&mut Vec::new()).unwrap();
    let (code, said) = server.end();
    assert_eq!(code, Some(0), "{said:#?}");
    assert!(said.iter().any(|line| line.contains("nothing was abandoned")), "{said:#?}");
}

#[test]
fn without_files_to_open_the_server_waits_and_then_goes_on() {
    let arc = Arc::new();
    let command = arc.server_in_shell("ulimit -n 64; exec \"$ARC\" \"$@\" serve");
    let mut server = Served::start(command);
    let held: Vec<_> = (0..100).map(|_| server.connect()).collect();
    server.wait_for("No connection can be accepted at the moment");
    drop(held);
    assert_eq!(server.send("GET", "/health", &[], "").status, 200);
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
}

/// T65.
#[test]
fn a_trigger_needs_a_token_answers_before_the_cycle_ends_and_its_job_is_shown() {
    let arc = Arc::new();
    work(&arc);
    let mut server = arc.serve();
    assert_eq!(server.send("POST", "/api/compaction/trigger", &[], "").status, 401);
    assert_eq!(server.send("GET", "/api/compaction/jobs", &[], "").status, 401);
    let reply = server.post("/api/compaction/trigger", "");
    assert_eq!(reply.status, 202, "{reply:?}");
    let cycle_id = reply.json()["cycle_id"].as_str().unwrap().to_owned();
    let again = server.post("/api/compaction/trigger", "");
    assert_eq!(again.status, 409, "the cycle was still running when its start was answered: {again:?}");
    assert!(again.text.contains(&cycle_id), "{again:?}");
    server.wait_for("Starting compaction job");
    let jobs = server.get("/api/compaction/jobs").json();
    assert_eq!(jobs["active_jobs"], 1, "{jobs:#}");
    let job = &jobs["jobs"][0];
    assert!(job["step"].is_string() && job["progress"].is_number(), "{jobs:#}");
    server.wait_for("Compaction cycle completed");
    let shown = server.get("/api/connections/storage").text;
    assert!(!shown.contains(TOKEN), "{shown}");
    assert_eq!(arc.live(PARTITION).len(), 1);
}
