//! A server to ask: started on a free port, and watched.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, ensure};
use serde_json::Value;

/// The token that every server here knows.
pub const TOKEN: &str = "arc_token_of_the_benchmark_of_the_api";
/// The line with which a cycle ends, as it is documented.
const END_OF_CYCLE: &str = "Compaction cycle completed in";
/// Clock ticks per second in `/proc/PID/stat`: fixed on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

pub struct Served {
    child: Child,
    pub address: String,
    log: BufReader<std::process::ChildStderr>,
    stdout: Option<JoinHandle<()>>,
    triggered: Instant,
    cycle_seconds: f64,
}

/// What a server used, without its children.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// From the request to the line that says that the cycle is over.
    pub cycle_seconds: f64,
    pub cpu_seconds: f64,
    pub peak_rss_bytes: u64,
}

impl Served {
    /// Over the data folder in `work`.
    pub fn start(program: &Path, work: &Path) -> anyhow::Result<Self> {
        let config = work.join("arc.conf");
        let at = |name: &str| work.join(name).display().to_string();
        let text = format!(
            "[server]\nport = 0\n[auth]\ndefault_token = '{TOKEN}'\n[state]\ndb_path = '{}'\n[storage.local]\n\
             base_path = '{}'\n[compaction]\ntemp_dir = '{}'\nschedule = '0 0 29 2 *'\n",
            at("arc.db"),
            at("data"),
            at("temp")
        );
        fs::write(&config, text)?;
        let mut command = Command::new(program);
        command.args(["serve", "--json", "--config"]).arg(&config);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let log = BufReader::new(child.stderr.take().context("stderr is a pipe")?);
        let mut stdout = BufReader::new(child.stdout.take().context("stdout is a pipe")?);
        let mut first = String::new();
        stdout.read_line(&mut first)?;
        let started: Value = serde_json::from_str(&first).with_context(|| format!("{} serve", program.display()))?;
        let address = started["address"].as_str().context("the server says where it is")?.to_owned();
        let stdout = Some(thread::spawn(move || drop(stdout.read_to_end(&mut Vec::new()))));
        Ok(Self { child, address, log, stdout, triggered: Instant::now(), cycle_seconds: 0.0 })
    }

    /// Starts a cycle over everything.
    pub fn trigger(&mut self) -> anyhow::Result<()> {
        self.triggered = Instant::now();
        let url = format!("http://{}/api/compaction/trigger", self.address);
        let answer = ureq::post(url).header("x-api-key", TOKEN).send_empty()?;
        ensure!(answer.status() == 202, "the cycle did not start: {answer:?}");
        Ok(())
    }

    /// Reads the log up to the end of the cycle.
    pub fn wait_for_the_cycle(&mut self) -> anyhow::Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            ensure!(self.log.read_line(&mut line)? > 0, "the server ended during the cycle");
            ensure!(!line.contains("\"ERROR\""), "a job failed: {line}");
            if line.contains(END_OF_CYCLE) {
                self.cycle_seconds = self.triggered.elapsed().as_secs_f64();
                return Ok(());
            }
        }
    }

    /// Stops the server, and says what it used.
    pub fn end(mut self) -> anyhow::Result<Ended> {
        let pid = self.child.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // User and system time are the 14th and 15th of the line; the first two go with the name, which may hold spaces.
        let fields: Vec<&str> = stat.rsplit_once(')').context("a name")?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).context("read /proc/PID/stat");
        let cpu_seconds = (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("read /proc/PID/status")?;
        let kib: u64 = peak.trim().trim_end_matches(" kB").parse()?;
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        std::io::copy(&mut self.log, &mut std::io::sink())?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the server ended with {status}");
        if let Some(reader) = self.stdout.take() {
            // It only reads; there is nothing to hear of it.
            let _ = reader.join();
        }
        Ok(Ended { cycle_seconds: self.cycle_seconds, cpu_seconds, peak_rss_bytes: kib * 1024 })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Ended already, unless something went wrong.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
