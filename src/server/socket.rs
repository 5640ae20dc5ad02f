//! A client's socket, with what the HTTP library leaves to us: explanations for requests that are no HTTP, and closing a
//! connection in such a way that the client gets to read the last answer.
//!
//! The library answers what it cannot parse by itself, with a bare status and before any of our layers. Such an answer is
//! recognised on its way out, by what all answers of ours have and it has not: a request id.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Duration, Instant, Sleep, sleep_until};

use super::{errors, request_id};

/// Bytes that are read and dropped after the last answer.
const MAX_LINGERING_BYTES: usize = 8 * 1024 * 1024;

/// Statuses that the library answers by itself.
const ITS_OWN: [StatusCode; 3] =
    [StatusCode::BAD_REQUEST, StatusCode::URI_TOO_LONG, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE];

/// The socket.
pub(super) struct Socket<S> {
    inner: S,
    /// An answer in the place of one of the library's, as far as it is not written yet.
    unwritten: Vec<u8>,
    linger: Duration,
    closing: Option<Closing>,
}

/// The time after our end of the connection was closed.
struct Closing {
    until: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl<S> Socket<S> {
    pub(super) fn new(inner: S, linger: Duration) -> Self {
        Self { inner, unwritten: Vec::new(), linger, closing: None }
    }
}

impl<S: AsyncWrite + Unpin> Socket<S> {
    fn poll_unwritten(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unwritten.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.unwritten))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(self.unwritten.drain(..written)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Our answer, if these bytes are one of the library's own.
fn replaced(bytes: &[u8]) -> Option<Vec<u8>> {
    let head = str::from_utf8(bytes).ok()?.strip_suffix("\r\n\r\n")?;
    let status = ITS_OWN.into_iter().find(|status| head.starts_with(&format!("HTTP/1.1 {status}\r\n")))?;
    let mut headers = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    if headers.any(|(name, _)| name.eq_ignore_ascii_case(request_id::HEADER.as_str())) {
        return None;
    }
    let id = request_id::new();
    let body = errors::body(status, None, &id).to_string();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n{}: {id}\r\ncontent-length: {}\r\n\r\n{body}",
        request_id::HEADER,
        body.len()
    );
    Some(answer.into_bytes())
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_unwritten(cx))?;
        if let Some(answer) = replaced(buf) {
            self.unwritten = answer;
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unwritten(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    /// Closes our end, then takes in and drops what the client is still sending. Closing with unread bytes would reset the
    /// connection, and the client's system may then throw away the answer that it has not read yet.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.closing.is_none() {
            ready!(this.poll_unwritten(cx))?;
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        }
        let linger = this.linger;
        let closing = this.closing.get_or_insert_with(|| Closing {
            until: Box::pin(sleep_until(Instant::now() + linger)),
            bytes_left: MAX_LINGERING_BYTES,
        });
        let mut scratch = [0; 4096];
        while closing.bytes_left > 0 && closing.until.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut this.inner).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    closing.bytes_left = closing.bytes_left.saturating_sub(buffer.filled().len());
                }
                // The client has closed its end, or is gone.
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
