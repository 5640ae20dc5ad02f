//! The dashboard in a real browser, against canned answers. Needs Chromium: without it these tests say that they were
//! skipped, except where the variable `CI` is `true`; there its absence is a failure.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc::api::dashboard;
use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use crate::support::again;

const HOSTILE: &str = "<script>document.title='pwned'</script><img src=x onerror=alert(1)>&amp;\"'";
const HOSTILE_IN_DOM: &str =
    "&lt;script&gt;document.title='pwned'&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;&amp;amp;\"'";

fn browser() -> Option<PathBuf> {
    let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(|name| {
        let folders = ["/usr/bin", "/usr/local/bin", "/snap/bin", "/opt/google/chrome"];
        folders.iter().map(|folder| PathBuf::from(folder).join(name)).find(|path| path.exists())
    });
    let needed = again::asked("ARC_REQUIRE_BROWSER").is_some();
    assert!(
        found.is_some() || !needed,
        "ARC_REQUIRE_BROWSER is set, and there is no Chromium: apt-get install chromium"
    );
    found
}

/// What the canned server answers.
type Answers = Arc<dyn Fn(&str, &str) -> (StatusCode, Value) + Send + Sync>;

fn usual(path: &str) -> Value {
    let job = json!({"job_id": "cpu_1", "database": HOSTILE, "measurement": "cpu", "partition_path": "cpu/2025/10/08/14",
        "status": "completed", "step": "tidy", "files_compacted": 72, "files_written": 1, "rows": 1000,
        "bytes_before": 377_487_360, "bytes_after": 53_687_091, "compression_ratio": 0.858, "duration_seconds": 45.3,
        "started_at": "2025-10-08T16:05:00Z", "completed_at": "2025-10-08T16:05:45Z", "error": null,
        "inputs_quarantined": []});
    let failed = json!({"job_id": "mem_1", "database": "db", "partition_path": "mem/2025/10/08/14", "status": "failed",
        "step": "merge", "duration_seconds": 1.5, "completed_at": "2025-10-08T16:06:00Z", "error": HOSTILE});
    let live = json!({"job_id": "disk_1", "database": "db", "partition_path": "disk/2025/10/08/14", "status": "running",
        "step": "merge", "progress": 0.42, "files_planned": 72, "bytes_planned": 377_487_360, "cancelling": false});
    let sums = json!({"total_jobs_completed": 7, "total_jobs_failed": 1, "total_files_compacted": 504,
        "total_bytes_saved": 1_073_741_824, "active_jobs": 1});
    match path {
        "/ready" => json!({"status": "ready", "checks": {"storage": {"ok": true, "detail": "answers"}}}),
        "/api/compaction/status" => json!({
            "scheduler": {"enabled": true, "running": true, "paused": false, "schedule": "5 * * * *", "timezone": "UTC",
                "next_run": "2125-10-08T17:05:00Z", "last_run": "2025-10-08T16:05:00Z"},
            "manager": {"active_jobs": 1, "total_completed": 7, "total_failed": 1, "backlog_partitions": 3,
                "backlog_bytes": 2048, "cycle_running": true, "last_success_at": "2025-10-08T16:05:45Z"}}),
        "/api/compaction/jobs" => json!({"active_jobs": 1, "jobs": [live]}),
        "/api/compaction/stats" => {
            let mut stats = sums.clone();
            stats["recent_jobs"] = json!([job, failed]);
            stats["databases"] = json!({HOSTILE: sums});
            stats
        }
        "/api/compaction/quarantine" => json!({"count": 1, "files": [{"id": 1, "database": "db",
            "partition_path": "cpu/2025/10/08/15", "name": HOSTILE, "size_bytes": 2048,
            "reason": {"unreadable": "the footer is cut off"}, "retry_at": "2025-10-09T16:05:45Z"}]}),
        "/api/compaction/locks" => json!({"active_locks": 1, "locks": [{"database": "db",
            "partition_path": "disk/2025/10/08/14", "worker_id": HOSTILE, "locked_at": "2025-10-08T16:05:00Z",
            "expires_at": "2025-10-08T18:05:00Z"}]}),
        _ => json!({}),
    }
}

/// The page as delivered, followed by `script`, which the page's own policy allows.
async fn page_with(script: &'static str) -> Response {
    let (parts, body) = dashboard::page().into_parts();
    let page = String::from_utf8(to_bytes(body, usize::MAX).await.unwrap().to_vec()).unwrap();
    let policy = parts.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    let nonce = policy.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    let page = page.replace("</body>", &format!("<script nonce=\"{nonce}\">{script}</script></body>"));
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(page)).into_response()
}

/// The document after some (virtual) seconds. `None`: no browser.
fn dom(script: &'static str, answers: Answers) -> Option<String> {
    let browser = browser().or_else(|| {
        std::io::Write::write_all(&mut std::io::stderr(), b"skipped: there is no Chromium on this machine\n").unwrap();
        None
    })?;
    let app = Router::new().route("/", get(move || page_with(script))).fallback(move |request: Request| {
        let answers = Arc::clone(&answers);
        async move {
            let path = request.uri().path();
            if path == "/api/compaction/events" {
                let event = "event: job_progress\ndata: {\"job_id\":\"live_1\",\"database\":\"db\",\
                             \"partition_path\":\"net/1\",\"step\":\"publish\",\"progress\":0.9}\n\n";
                return ([(header::CONTENT_TYPE, "text/event-stream")], event).into_response();
            }
            let (status, body) = answers(request.method().as_str(), path);
            (status, axum::Json(body)).into_response()
        }
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move { axum::serve(listener, app).await });
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(browser)
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--virtual-time-budget=12000", &format!("http://{address}/")])
        .output()
        .unwrap();
    let dom = String::from_utf8(output.stdout).unwrap();
    assert!(dom.contains("</html>"), "no document: {}", String::from_utf8_lossy(&output.stderr));
    Some(dom)
}

fn text_of<'a>(dom: &'a str, id: &str) -> &'a str {
    let (_, rest) = dom.split_once(&format!("id=\"{id}\"")).unwrap_or_else(|| panic!("no {id} in {dom}"));
    rest.split_once('>').unwrap().1.split('<').next().unwrap()
}

fn hidden(dom: &str, id: &str) -> bool {
    let (_, rest) = dom.split_once(&format!("id=\"{id}\"")).unwrap();
    rest.split('>').next().unwrap().contains("hidden")
}

#[test]
fn it_shows_the_service_and_hostile_names_as_text() {
    let Some(dom) = dom("", Arc::new(|_, path| (StatusCode::OK, usual(path)))) else { return };
    assert_eq!(text_of(&dom, "state"), "healthy");
    assert!(text_of(&dom, "next-run").starts_with("in "));
    assert_eq!(text_of(&dom, "backlog"), "3 partitions, 2.0 KB");
    assert!(dom.contains("72 files, 360.0 MB → 1 files, 51.2 MB"), "{dom}");
    for text in ["db/disk/2025/10/08/14", " 42 %", "1.0 GB", "unreadable: the footer is cut off"] {
        assert!(dom.contains(text), "{text}: {dom}");
    }
    assert!(hidden(&dom, "stale") && hidden(&dom, "login") && !hidden(&dom, "content"));
    // Database in two tables, error, file name, worker.
    assert_eq!(dom.matches(HOSTILE_IN_DOM).count(), 5, "{dom}");
    assert!(!dom.contains("<img") && dom.contains("<title>Arc compaction</title>"), "{dom}");
}

#[test]
fn a_service_that_is_not_ready_is_behind_or_failing_with_the_reason() {
    for (check, state) in [("backlog", "behind"), ("storage", "failing")] {
        let answers = move |_: &str, path: &str| match path {
            "/ready" => {
                let checks = json!({check: {"ok": false, "detail": "the disk is <gone>"}});
                (StatusCode::SERVICE_UNAVAILABLE, json!({"status": "not_ready", "checks": checks}))
            }
            path => (StatusCode::OK, usual(path)),
        };
        let Some(dom) = dom("", Arc::new(answers)) else { return };
        assert_eq!(text_of(&dom, "state"), state);
        assert!(dom.contains(&format!("{check}: the disk is &lt;gone&gt;")), "{dom}");
    }
}

#[test]
fn without_a_token_it_asks_for_one_and_shows_nothing() {
    let answers = |_: &str, _: &str| (StatusCode::UNAUTHORIZED, json!({"error": "unauthorized", "detail": "no token"}));
    let Some(dom) = dom("", Arc::new(answers)) else { return };
    assert_eq!(text_of(&dom, "state"), "token needed");
    assert!(!hidden(&dom, "login") && hidden(&dom, "content"));
}

#[test]
fn data_is_marked_stale_when_the_server_stops_answering() {
    let rounds = AtomicUsize::new(0);
    let answers = move |_: &str, path: &str| {
        if path == "/api/compaction/status" && rounds.fetch_add(1, Ordering::SeqCst) > 0 {
            return (StatusCode::SERVICE_UNAVAILABLE, json!({"error": "unavailable", "detail": "database is gone"}));
        }
        (StatusCode::OK, usual(path))
    };
    let Some(dom) = dom("", Arc::new(answers)) else { return };
    assert!(text_of(&dom, "stale").contains("(database is gone). What you see is from 20"), "{dom}");
    assert!(!hidden(&dom, "stale") && dom.contains("class=\"stale\""));
    assert_eq!(text_of(&dom, "state"), "unknown");
    assert!(dom.contains("db/disk/2025/10/08/14"), "what was known stays visible");
}

#[test]
fn a_button_that_the_token_may_not_use_says_so() {
    let answers = |method: &str, path: &str| match method {
        "POST" => (StatusCode::FORBIDDEN, json!({"error": "forbidden", "detail": "an admin token is needed"})),
        _ => (StatusCode::OK, usual(path)),
    };
    let click = "setTimeout(() => document.getElementById('pause').click(), 2000);";
    let Some(dom) = dom(click, Arc::new(answers)) else { return };
    assert_eq!(text_of(&dom, "notice"), "Not allowed with this token: an admin token is needed");
    assert!(!hidden(&dom, "notice"));
}
