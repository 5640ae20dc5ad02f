//! The real server on a port of its own, and a client for it.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use serde_json::Value;

use super::Arc;

/// The token that is configured unless a test says otherwise.
pub const TOKEN: &str = "arc_test_token_of_the_integration_tests";

/// A running `arc serve`, ended when dropped.
#[derive(Debug)]
pub struct Served {
    child: Child,
    pub address: String,
    lines: mpsc::Receiver<String>,
    /// What standard error has said so far: the log, among other things.
    pub said: Vec<String>,
    readers: Vec<JoinHandle<()>>,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Arc {
    /// Starts a server with [`TOKEN`].
    pub fn serve(&self) -> Served {
        self.serve_with(&[("DEFAULT_API_TOKEN", TOKEN)])
    }

    /// Starts a server with these variables, on a free port.
    pub fn serve_with(&self, environment: &[(&str, &str)]) -> Served {
        let mut command = self.server_command();
        command.arg("serve").envs(environment.iter().copied());
        Served::start(command)
    }

    /// The program with `--json`, for a server that is not started yet.
    pub fn server_command(&self) -> Command {
        self.in_environment(Command::new(assert_cmd::cargo::cargo_bin("arc")))
    }

    /// A shell that runs `script`, in which `$ARC` is the program and `$@` its flags.
    pub fn server_in_shell(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.env("ARC", assert_cmd::cargo::cargo_bin("arc")).args(["-euc", script, "sh"]);
        self.in_environment(command)
    }

    fn in_environment(&self, mut command: Command) -> Command {
        command.arg("--config").arg(self.config_file()).arg("--json").current_dir(self.dir()).env("ARC_PORT", "0");
        command
    }
}

impl Served {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        stdout.read_line(&mut first).unwrap();
        let rest = thread::spawn(move || drop(stdout.read_to_end(&mut Vec::new())));
        let mut served = Self { child, address: String::new(), lines, said: Vec::new(), readers: vec![log, rest] };
        let Ok(started) = serde_json::from_str::<Value>(&first) else {
            panic!("the server did not start: {first:?} {:#?}", served.end().1);
        };
        started["address"].as_str().unwrap().clone_into(&mut served.address);
        served
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line on standard error with this text, and returns it. Lines before it are kept in `said`.
    pub fn wait_for(&mut self, text: &str) -> String {
        if let Some(line) = self.said.iter().find(|line| line.contains(text)) {
            return line.clone();
        }
        loop {
            let line =
                self.lines.recv().unwrap_or_else(|_| panic!("the server ended without {text:?}: {:#?}", self.said));
            self.said.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    pub fn signal(&self, name: &str) {
        Command::new("kill").args(["-s", name, &self.id().to_string()]).status().unwrap();
    }

    /// Waits for the end: the exit code, and everything that standard error said.
    pub fn end(mut self) -> (Option<i32>, Vec<String>) {
        let code = self.child.wait().unwrap().code();
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        self.said.extend(self.lines.try_iter());
        (code, std::mem::take(&mut self.said))
    }

    pub fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).unwrap()
    }

    /// Sends a request with these headers and, unless it is empty, a JSON body.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).allow_non_standard_methods(true).build().into();
        let mut request = ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let mut response = agent.run(request.body(body.to_owned()).unwrap()).unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        Reply { status: response.status().as_u16(), headers: response.headers().clone(), text }
    }

    /// A request with a token.
    pub fn with_token(&self, token: &str, method: &str, path: &str, body: &str) -> Reply {
        self.send(method, path, &[("x-api-key", token)], body)
    }

    /// `GET` with [`TOKEN`].
    pub fn get(&self, path: &str) -> Reply {
        self.with_token(TOKEN, "GET", path, "")
    }

    /// `POST` with [`TOKEN`].
    pub fn post(&self, path: &str, body: &str) -> Reply {
        self.with_token(TOKEN, "POST", path, body)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Ended already, most of the time.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
