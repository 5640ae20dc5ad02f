//! A server that keeps what it is asked and answers what the test says.

use std::fmt::{self, Write as _};
use std::io;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::http1::Head;

/// An answer: status, headers, body.
pub type Answer = (u16, Vec<(&'static str, String)>, String);

/// A running server. Ends when dropped.
pub struct Canned {
    pub address: String,
    asked: Arc<Mutex<Vec<Head>>>,
    runtime: Option<Runtime>,
}

impl fmt::Debug for Canned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Canned({})", self.address)
    }
}

impl Canned {
    pub fn start(answer: impl Fn(&Head) -> Answer + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (asked, answer) = (Arc::<Mutex<Vec<Head>>>::default(), Arc::new(answer));
        let kept = Arc::clone(&asked);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                tokio::spawn(async move { drop(serve(client, &kept, answer.as_ref()).await) });
            }
        });
        Self { address, asked, runtime: Some(runtime) }
    }

    /// A server that refuses everything with this status and document.
    pub fn refusing(status: u16, body: impl Into<String>) -> Self {
        let body = body.into();
        Self::start(move |_| (status, Vec::new(), body.clone()))
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<Head> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    client: TcpStream,
    asked: &Mutex<Vec<Head>>,
    answer: &(dyn Fn(&Head) -> Answer + Send + Sync),
) -> io::Result<()> {
    let (from, mut to) = client.into_split();
    let mut from = BufReader::new(from);
    loop {
        let request = match Head::read(&mut from).await {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            // As plain servers do when somebody speaks TLS to them.
            Err(_) => return to.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await,
        };
        request.body().all(&mut from).await?;
        let (status, headers, body) = answer(&request);
        asked.lock().unwrap().push(request.clone());
        let body = if request.method() == "HEAD" { String::new() } else { body };
        let mut text = format!("HTTP/1.1 {status} Canned\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            write!(text, "{name}: {value}\r\n").unwrap();
        }
        write!(text, "\r\n{body}").unwrap();
        to.write_all(text.as_bytes()).await?;
    }
}

impl Drop for Canned {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
