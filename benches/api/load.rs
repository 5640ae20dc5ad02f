//! Clients: each with one connection that it keeps, asking for one path after another at a steady pace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Who asks, how often, and for what.
#[derive(Debug)]
pub struct Load {
    pub clients: u32,
    /// Of all clients together.
    pub requests_a_second: u32,
    pub paths: Vec<String>,
}

/// A request.
#[derive(Debug)]
pub struct Timed {
    pub path: String,
    pub took: Duration,
    /// Anything but a complete answer with status 200.
    pub error: Option<String>,
}

/// Clients at work.
pub struct Running {
    stop: Arc<AtomicBool>,
    clients: JoinHandle<anyhow::Result<Vec<Timed>>>,
}

impl Running {
    /// Lets each client finish what it is waiting for.
    pub fn stop(self) -> anyhow::Result<Vec<Timed>> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join().map_err(|_| anyhow!("the clients panicked"))?
    }
}

impl Load {
    /// Lets the clients begin, on a thread of their own: what they take of the processors is one at most.
    pub fn start(&self, address: &str, token: &str) -> anyhow::Result<Running> {
        let stop = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let pause = Duration::from_secs(1) * self.clients / self.requests_a_second;
        let paths: Arc<[String]> = self.paths.clone().into();
        let (clients, address, token, stopped) =
            (self.clients, address.to_owned(), token.to_owned(), Arc::clone(&stop));
        let clients = thread::spawn(move || {
            runtime.block_on(async move {
                let (begin, mut tasks) = (Instant::now(), JoinSet::new());
                for number in 0..clients {
                    let client = Client {
                        address: address.clone(),
                        token: token.clone(),
                        first: begin + pause * number / clients,
                        pause,
                        stop: Arc::clone(&stopped),
                    };
                    tasks.spawn(client.ask(Arc::clone(&paths), number as usize));
                }
                Ok(tasks.join_all().await.into_iter().flatten().collect())
            })
        });
        Ok(Running { stop, clients })
    }
}

struct Client {
    address: String,
    token: String,
    first: Instant,
    pause: Duration,
    stop: Arc<AtomicBool>,
}

type Connection = (BufReader<OwnedReadHalf>, OwnedWriteHalf);

impl Client {
    async fn ask(self, paths: Arc<[String]>, mut next: usize) -> Vec<Timed> {
        let (mut timed, mut due, mut connection) = (Vec::new(), self.first, None);
        while !self.stop.load(Ordering::Relaxed) {
            let is_late = due < Instant::now();
            sleep_until(due).await;
            let since = if is_late { due } else { Instant::now() };
            let path = &paths[next % paths.len()];
            let answer = self.request(&mut connection, path).await;
            if answer.is_err() {
                connection = None;
            }
            let error = answer.err().map(|error| format!("{path}: {error:#}"));
            timed.push(Timed { path: path.clone(), took: since.elapsed(), error });
            due += self.pause;
            next += 1;
        }
        timed
    }

    async fn request(&self, connection: &mut Option<Connection>, path: &str) -> anyhow::Result<()> {
        let (from, to) = if let Some(open) = connection {
            open
        } else {
            let stream = TcpStream::connect(&self.address).await.context("connect")?;
            stream.set_nodelay(true)?;
            let (from, to) = stream.into_split();
            connection.insert((BufReader::new(from), to))
        };
        let request = format!("GET {path} HTTP/1.1\r\nhost: arc\r\nx-api-key: {}\r\n\r\n", self.token);
        to.write_all(request.as_bytes()).await?;
        let mut line = String::new();
        from.read_line(&mut line).await?;
        let status = line.trim_end().to_owned();
        let mut length: u64 = 0;
        loop {
            line.clear();
            ensure!(from.read_line(&mut line).await? > 0, "the connection was closed in the middle of an answer");
            match line.trim_end().split_once(':') {
                None => break,
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse()?,
                Some(_) => {}
            }
        }
        let read = tokio::io::copy(&mut from.take(length), &mut tokio::io::sink()).await?;
        ensure!(read == length, "the body was cut off");
        if !status.ends_with("200 OK") {
            bail!("{status}");
        }
        Ok(())
    }
}
