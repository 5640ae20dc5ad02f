//! Who may do what, asked of the real server.

use std::io::{Read, Write};

use crate::support::served::{Reply, Served, TOKEN};
use crate::support::{Arc, Run};

const STATUS: &str = "/api/compaction/status";
const PAUSE: &str = "/api/compaction/pause";

fn assert_refused(reply: &Reply, status: u16, kind: &str) {
    assert_eq!(reply.status, status, "{reply:?}");
    let body = reply.json();
    assert_eq!(body["error"], kind, "{reply:?}");
    assert!(body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{reply:?}");
    assert!(reply.header("x-request-id").is_some(), "{reply:?}");
}

fn create(arc: &Arc, name: &str, role: &str) -> String {
    let run = Run::of(&mut arc.command(&["token", "create", "--name", name, "--role", role]));
    assert_eq!(run.code, 0, "{run:#?}");
    run.stdout.trim().to_owned()
}

#[test]
fn without_a_token_exactly_the_allowed_paths_and_the_shell_of_the_dashboard_answer() {
    let arc = Arc::new();
    let server = arc.serve();
    for path in ["/health", "/ready"] {
        assert!([200, 503].contains(&server.send("GET", path, &[], "").status), "{path}");
    }
    assert_ne!(server.send("GET", "/", &[], "").status, 401);
    for path in [
        STATUS,
        "/metrics",
        "/openapi.json",
        "/nothing",
        "/health/",
        "//health",
        "/HEALTH",
        "/%68ealth",
        "/health/..",
        "/health/../metrics",
        "/ready%2f",
        "//",
        "/./",
    ] {
        let reply = server.send("GET", path, &[], "");
        assert_refused(&reply, 401, "unauthorized");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"), "{path}");
    }
    assert_refused(&server.send("POST", "/", &[], ""), 401, "unauthorized");
    assert_refused(&server.send("POST", "/api/compaction/trigger", &[], "{}"), 401, "unauthorized");
}

#[test]
fn the_allowlist_is_configurable_and_empty_means_that_nothing_is_public() {
    let arc = Arc::new();
    let closed = arc.serve_with(&[("DEFAULT_API_TOKEN", TOKEN), ("AUTH_ALLOWLIST", "")]);
    assert_eq!(closed.send("GET", "/health", &[], "").status, 401);
    drop(closed);
    let open = arc.serve_with(&[("DEFAULT_API_TOKEN", TOKEN), ("AUTH_ALLOWLIST", STATUS)]);
    assert_eq!(open.send("GET", STATUS, &[], "").status, 200);
    assert_eq!(open.send("GET", "/health", &[], "").status, 401);
}

#[test]
fn a_token_may_come_in_either_header_and_must_be_right() {
    let arc = Arc::new();
    let server = arc.serve();
    let bearer = format!("Bearer {TOKEN}");
    for header in
        [("x-api-key", TOKEN), ("authorization", &bearer), ("Authorization", &bearer.replace("Bearer", "bEARER"))]
    {
        assert_eq!(server.send("GET", STATUS, &[header], "").status, 200, "{header:?}");
    }
    let basic = format!("Basic {TOKEN}");
    let cut = &TOKEN[1..];
    for header in [("x-api-key", cut), ("x-api-key", ""), ("authorization", "Bearer "), ("authorization", &basic)] {
        let reply = server.send("GET", STATUS, &[header], "");
        assert_refused(&reply, 401, "unauthorized");
        assert!(reply.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")), "{header:?}");
        assert!(!reply.text.contains(cut), "{reply:?}");
    }
}

#[test]
fn a_read_token_may_look_and_an_admin_token_may_do_everything() {
    let arc = Arc::new();
    let server = arc.serve();
    let (read, admin) = (create(&arc, "grafana", "read"), create(&arc, "deploy", "admin"));
    for method in ["GET", "HEAD"] {
        assert_eq!(server.with_token(&read, method, STATUS, "").status, 200, "{method}");
    }
    for (method, path) in [("POST", PAUSE), ("POST", "/api/compaction/trigger"), ("DELETE", "/api/compaction/jobs/x")] {
        let reply = server.with_token(&read, method, path, "");
        assert_refused(&reply, 403, "forbidden");
        assert!(reply.json()["detail"].as_str().unwrap().contains("grafana"), "{reply:?}");
    }
    assert!((200..300).contains(&server.with_token(&admin, "POST", PAUSE, "").status));
}

#[test]
fn a_token_that_another_process_revokes_stops_working_with_the_next_request() {
    let arc = Arc::new();
    let server = arc.serve();
    let token = create(&arc, "ci", "read");
    assert_eq!(server.with_token(&token, "GET", STATUS, "").status, 200);
    assert_eq!(Run::of(&mut arc.command(&["token", "revoke", "ci"])).code, 0);
    assert_refused(&server.with_token(&token, "GET", STATUS, ""), 401, "unauthorized");
}

#[test]
fn a_stream_ends_when_its_token_is_revoked_and_others_go_on() {
    let arc = Arc::new();
    let server = arc.serve();
    let follow = |token: &str| {
        let mut stream = server.connect();
        let head = format!("GET /api/compaction/events HTTP/1.1\r\nhost: x\r\nx-api-key: {token}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut first = [0; 15];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1 200 OK");
        stream
    };
    let (mut revoked, mut kept) = (follow(&create(&arc, "ci", "read")), follow(TOKEN));
    assert_eq!(Run::of(&mut arc.command(&["token", "revoke", "ci"])).code, 0);
    let mut text = String::new();
    while !text.ends_with("0\r\n\r\n") {
        let mut bytes = [0; 1024];
        let read = revoked.read(&mut bytes).unwrap();
        assert!(read > 0, "cut off: {text:?}");
        text.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    assert_eq!(server.post("/api/compaction/trigger", "").status, 202);
    let mut told = String::new();
    while !told.contains("cycle_finished") {
        let mut bytes = [0; 1024];
        let read = kept.read(&mut bytes).unwrap();
        assert!(read > 0, "the other stream has ended: {told}");
        told.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
}

/// Sends wrong tokens of every kind until they are no longer looked at.
fn guess_too_often(server: &Served) {
    let like_ours = format!("arc_{}", "0".repeat(64));
    for number in 0..arc::auth::throttle::BURST {
        let guess = if number % 2 == 0 { "arc_guessed" } else { &like_ours };
        assert_refused(&server.with_token(guess, "GET", STATUS, ""), 401, "unauthorized");
    }
    for guess in ["arc_guessed", &like_ours] {
        let reply = server.with_token(guess, "GET", STATUS, "");
        assert_refused(&reply, 429, "too_many_requests");
        let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=arc::auth::throttle::REFILL.as_secs()).contains(&wait), "{wait}");
    }
}

#[test]
fn wrong_tokens_make_an_address_wait_and_never_keep_out_a_right_one() {
    let arc = Arc::new();
    let server = arc.serve();
    let (read, admin) = (create(&arc, "grafana", "read"), create(&arc, "deploy", "admin"));
    guess_too_often(&server);
    for (token, paused) in [(&read, 403), (&admin, 200)] {
        assert_eq!(server.with_token(token, "GET", STATUS, "").status, 200);
        let bearer = format!("Bearer {token}");
        assert_eq!(server.send("GET", STATUS, &[("authorization", &bearer)], "").status, 200);
        assert_eq!(server.with_token(token, "POST", PAUSE, "").status, paused);
    }
    assert_refused(&server.with_token("arc_guessed", "GET", STATUS, ""), 429, "too_many_requests");
    assert_eq!(Run::of(&mut arc.command(&["token", "revoke", "grafana"])).code, 0);
    assert_refused(&server.with_token(&read, "GET", STATUS, ""), 429, "too_many_requests");
    assert_refused(&server.send("GET", STATUS, &[], ""), 401, "unauthorized");
    assert_eq!(server.send("GET", "/health", &[], "").status, 200, "what needs no token is not affected");
    server.signal("TERM");
    let (_, said) = server.end();
    let refused: Vec<_> =
        said.iter().filter(|line| line.contains("A request with a wrong token was refused")).collect();
    assert_eq!(refused.len(), arc::auth::throttle::BURST as usize, "those who go on fill no log: {said:#?}");
    assert!(!said.iter().any(|line| line.contains("arc_guessed") || line.contains("short enough to be guessed")));
}

#[test]
fn a_configured_token_waits_with_its_address_and_the_log_says_when_it_is_short() {
    let arc = Arc::new();
    let mut server = arc.serve_with(&[("DEFAULT_API_TOKEN", "sesame")]);
    let line = server.wait_for("auth.default_token is short enough to be guessed");
    assert!(line.contains("\"WARN\"") && !line.contains("sesame"), "{line}");
    let strong = create(&arc, "deploy", "admin");
    assert_eq!(server.with_token("sesame", "GET", STATUS, "").status, 200);
    guess_too_often(&server);
    assert_refused(&server.with_token("sesame", "GET", STATUS, ""), 429, "too_many_requests");
    assert_eq!(server.with_token(&strong, "GET", STATUS, "").status, 200);
}

#[test]
fn requests_without_a_token_are_no_guesses() {
    let arc = Arc::new();
    let server = arc.serve();
    for _ in 0..arc::auth::throttle::BURST * 2 {
        assert_eq!(server.send("GET", STATUS, &[], "").status, 401);
    }
    assert_eq!(server.get(STATUS).status, 200);
}

#[test]
fn the_first_start_shows_one_admin_token_once_and_keeps_it_out_of_the_log() {
    let arc = Arc::new();
    let log = arc.dir().join("arc.log");
    let environment = [("LOG_FILE", log.to_str().unwrap())];
    let mut server = arc.serve_with(&environment);
    let token = server.wait_for("arc_").trim().to_owned();
    assert!((200..300).contains(&server.with_token(&token, "POST", PAUSE, "").status));
    server.signal("TERM");
    assert_eq!(server.end().0, Some(0));
    let server = arc.serve_with(&environment);
    assert_eq!(server.with_token(&token, "GET", STATUS, "").status, 200);
    server.signal("TERM");
    let (_, said) = server.end();
    assert!(!said.iter().any(|line| line.contains("arc_")), "{said:#?}");
    for (path, _) in crate::support::tree(arc.dir()) {
        let bytes = std::fs::read(&path).unwrap();
        let shown = bytes.windows(token.len()).any(|window| window == token.as_bytes());
        assert!(!shown, "the token stands in {}", path.display());
    }
}

#[test]
fn without_authentication_everything_is_open_and_a_warning_says_so_if_others_can_reach_it() {
    let arc = Arc::new();
    let mut server = arc.serve_with(&[("AUTH_ENABLED", "false"), ("ARC_HOST", "0.0.0.0")]);
    server.address = server.address.replace("0.0.0.0", "127.0.0.1");
    assert_eq!(server.send("GET", STATUS, &[], "").status, 200);
    assert!((200..300).contains(&server.send("POST", PAUSE, &[], "").status));
    let line = server.wait_for("Authentication is off");
    assert!(line.contains("\"WARN\""), "{line}");
    server.signal("TERM");
    let (_, said) = server.end();
    assert!(!said.iter().any(|line| line.contains("arc_")), "no token is made that nobody needs: {said:#?}");
    let server = arc.serve_with(&[("AUTH_ENABLED", "false")]);
    assert_eq!(server.send("GET", STATUS, &[], "").status, 200);
    server.signal("TERM");
    assert!(!server.end().1.iter().any(|line| line.contains("Authentication is off")));
}

#[test]
fn tokens_are_made_listed_and_revoked_on_the_command_line() {
    let arc = Arc::new();
    let run = |arguments: &[&str]| Run::of(&mut arc.command(&[&["token"], arguments].concat()));
    let made = run(&["create", "--name", "a", "--role", "admin", "--json"]).json();
    assert!(made["token"].as_str().unwrap().starts_with("arc_"));
    assert_eq!((made["name"].as_str(), made["role"].as_str()), (Some("a"), Some("admin")));
    assert!(made["created_at"].as_str().unwrap().ends_with('Z'));
    let token = create(&arc, "b", "read");
    let second = run(&["create", "--name", "b"]);
    assert!(second.code == 1 && second.stderr.contains("there is a token named \"b\""), "{second:#?}");
    assert_eq!(run(&["create", "--name", "no spaces"]).code, 1);
    assert_eq!(run(&["create", "--name", "c", "--role", "king"]).code, 2);
    let listed = run(&["list", "--json"]);
    let roles: Vec<_> = listed.json()["tokens"].as_array().unwrap().iter().map(|t| t["role"].clone()).collect();
    assert_eq!(roles, ["admin", "read"]);
    let text = run(&["list"]).stdout;
    assert_eq!(text.lines().count(), 2);
    assert!(!text.contains(&token) && !listed.stdout.contains(&token));
    assert_eq!(run(&["revoke", "a", "--json"]).json()["revoked"], "a");
    let unknown = run(&["revoke", "a"]);
    assert!(unknown.code == 1 && unknown.stderr.contains("there is no token named \"a\""), "{unknown:#?}");
}

/// T65: no route is open by oversight. Every client has an address of its own, so that wrong tokens are not throttled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_asks_for_a_token_and_every_change_for_an_admin() {
    const PUBLIC: [&str; 3] = ["/", "/health", "/ready"];
    let arc = Arc::new();
    let input = arc::config::Input { file: Some(arc.config_file()), ..arc::config::Input::default() };
    let server = arc::Server::new(&arc::config::Config::load(&input).unwrap()).unwrap();
    let now = arc::clock::Clock::now(&arc::clock::SystemClock);
    let reader = server.tokens().create("reader", arc::auth::Role::Read, now).await.unwrap();
    let admin = server.tokens().create("admin", arc::auth::Role::Admin, now).await.unwrap();
    let (router, mut clients) = (server.router(), 0u8);
    let mut ask = async |method: &axum::http::Method, path: &str, token: Option<&str>| {
        clients += 1;
        let address: std::net::SocketAddr = ([10, 0, 0, clients], 1).into();
        let mut request = axum::http::Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("x-api-key", token);
        }
        let mut request = request.body(axum::body::Body::empty()).unwrap();
        request.extensions_mut().insert(axum::extract::ConnectInfo(address));
        tower::ServiceExt::oneshot(router.clone(), request).await.unwrap().status().as_u16()
    };
    for (method, template) in arc::api::served() {
        let path: Vec<&str> = template.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
        let path = path.join("/");
        let refused = |status: u16| matches!(status, 401 | 403);
        if PUBLIC.contains(&template) {
            assert!(!refused(ask(&method, &path, None).await), "{method} {template} is public");
            continue;
        }
        assert_eq!(ask(&method, &path, None).await, 401, "{method} {template} without a token");
        assert_eq!(ask(&method, &path, Some("arc_wrong")).await, 401, "{method} {template} with a wrong token");
        let looked = ask(&method, &path, Some(reader.token.reveal())).await;
        if method == axum::http::Method::GET {
            assert!(!refused(looked), "{method} {template} with a read token: {looked}");
        } else {
            assert_eq!(looked, 403, "{method} {template} with a read token");
        }
        assert!(!refused(ask(&method, &path, Some(admin.token.reveal())).await), "{method} {template} as admin");
    }
}
