//! A proxy between a client and a server of object storage, that makes the wire as bad as a test wants it.
//!
//! ```text
//! client ──> Proxy ──> server        for each request a plan says what becomes of it
//! ```
//!
//! It has threads of its own, so clients may be in this process or another, and block as they like. Requests of different
//! connections do not wait for each other.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::http1::{Body, Head};

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Nothing special.
    Good,
    /// The server gets it, and its answer comes later by this much. Real time, because sockets have no other: for the slow
    /// server itself, and not for anybody to wait for something else meanwhile.
    Delayed(Duration),
    /// The connection is reset, and the server never hears of the request.
    Reset,
    /// The server carries it out; then the connection is reset without an answer.
    LosesTheAnswer,
    /// The server never hears of it, and the client never of anything.
    Stalls,
    /// The answer ends after so many bytes of its body.
    Truncated(u64),
    /// The server never hears of it; the answer is this status, with an error document of S3.
    Answers(u16),
}

/// A proxy, and what went through it. Ends when dropped.
pub struct Proxy {
    pub address: String,
    seen: Arc<AtomicUsize>,
    runtime: Option<Runtime>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.address)
    }
}

type Plan = dyn Fn(usize, &Head) -> Wire + Send + Sync;

impl Proxy {
    /// Starts a proxy on a port of its own. `plan` is asked about every request; the number counts from 0.
    pub fn start(upstream: &str, plan: impl Fn(usize, &Head) -> Wire + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(AtomicUsize::new(0));
        let shared = Shared { upstream: upstream.to_owned(), plan: Arc::new(plan), seen: Arc::clone(&seen) };
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = shared.clone();
                // How a connection ends is for the client to notice.
                tokio::spawn(async move { drop(shared.serve(client).await) });
            }
        });
        Self { address, seen, runtime: Some(runtime) }
    }

    /// How many requests have come.
    pub fn requests(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Clone)]
struct Shared {
    upstream: String,
    plan: Arc<Plan>,
    seen: Arc<AtomicUsize>,
}

struct Connection {
    from_client: BufReader<OwnedReadHalf>,
    to_client: OwnedWriteHalf,
    from_server: BufReader<OwnedReadHalf>,
    to_server: OwnedWriteHalf,
}

impl Shared {
    async fn serve(&self, client: TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(&self.upstream).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let mut connection = Connection {
            from_client: BufReader::new(from_client),
            to_client,
            from_server: BufReader::new(from_server),
            to_server,
        };
        while let Some(request) = Head::read(&mut connection.from_client).await? {
            let wire = (self.plan)(self.seen.fetch_add(1, Ordering::SeqCst), &request);
            match connection.exchange(&request, wire).await? {
                Then::GoesOn => {}
                Then::Closes => return Ok(()),
                Then::Resets => return connection.reset(),
            }
        }
        Ok(())
    }
}

/// What becomes of the connection after a request.
enum Then {
    GoesOn,
    /// What was sent before arrives.
    Closes,
    Resets,
}

impl Connection {
    /// Carries one request out.
    async fn exchange(&mut self, request: &Head, wire: Wire) -> io::Result<Then> {
        match wire {
            Wire::Reset => return Ok(Then::Resets),
            Wire::Stalls => std::future::pending().await,
            Wire::Answers(status) => {
                request.body().all(&mut self.from_client).await?;
                let text = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>planned</Message></Error>";
                let text = if request.method() == "HEAD" { "" } else { text };
                let answer = format!("HTTP/1.1 {status} Planned\r\ncontent-length: {}\r\n\r\n{text}", text.len());
                self.to_client.write_all(answer.as_bytes()).await?;
                return Ok(Then::GoesOn);
            }
            Wire::Good | Wire::Delayed(_) | Wire::LosesTheAnswer | Wire::Truncated(_) => {}
        }
        self.to_server.write_all(&request.bytes).await?;
        copy(&mut self.from_client, &mut self.to_server, request.body(), u64::MAX).await?;
        let mut answer = self.answer().await?;
        // The server says "go on" to a client that has gone on already.
        while answer.status() == 100 {
            answer = self.answer().await?;
        }
        let body = if request.method() == "HEAD" || matches!(answer.status(), 204 | 304) {
            Body::Length(0)
        } else {
            answer.body()
        };
        match wire {
            Wire::LosesTheAnswer => {
                body.all(&mut self.from_server).await?;
                return Ok(Then::Resets);
            }
            Wire::Delayed(time) => tokio::time::sleep(time).await,
            _ => {}
        }
        self.to_client.write_all(&answer.bytes).await?;
        let limit = if let Wire::Truncated(bytes) = wire { bytes } else { u64::MAX };
        let whole = copy(&mut self.from_server, &mut self.to_client, body, limit).await?;
        Ok(if whole { Then::GoesOn } else { Then::Closes })
    }

    async fn answer(&mut self) -> io::Result<Head> {
        Head::read(&mut self.from_server).await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Ends the connection so that the other side sees an error, not an end.
    fn reset(self) -> io::Result<()> {
        let client = self.from_client.into_inner().reunite(self.to_client).map_err(io::Error::other)?;
        client.set_zero_linger()
    }
}

/// Copies a body up to a limit. `false`: the limit was reached before its end.
async fn copy(
    from: &mut BufReader<OwnedReadHalf>,
    to: &mut OwnedWriteHalf,
    mut body: Body,
    limit: u64,
) -> io::Result<bool> {
    let mut left = limit;
    loop {
        let piece = body.piece(from).await?;
        if piece.is_empty() {
            return Ok(true);
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        if piece.len() > most {
            to.write_all(&piece[..most]).await?;
            to.flush().await?;
            return Ok(false);
        }
        to.write_all(&piece).await?;
        left -= piece.len() as u64;
    }
}
