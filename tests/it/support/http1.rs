//! As much HTTP/1.1 as a proxy and a server for tests need: where a message begins and ends.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The most that a head may have.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// First line and headers of a message.
#[derive(Debug, Clone)]
pub struct Head {
    /// As it was on the wire, with the empty line.
    pub bytes: Vec<u8>,
    pub first_line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Reads up to and with the empty line. `None`: the other side has closed the connection.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if from.read(&mut byte).await? == 0 {
                return if bytes.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            bytes.push(byte[0]);
            // The first byte of TLS: who speaks it does not mean this server.
            if bytes == [0x16] {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if bytes.len() > MAX_HEAD_BYTES {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut lines = text.lines();
        let first_line = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_lowercase(), value.trim().to_owned()))
            .collect();
        Ok(Some(Self { bytes, first_line, headers }))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Of a request: `GET`.
    pub fn method(&self) -> &str {
        self.first_line.split(' ').next().unwrap_or_default()
    }

    /// Of a request: path and query.
    pub fn target(&self) -> &str {
        self.first_line.split(' ').nth(1).unwrap_or_default()
    }

    /// Of an answer.
    pub fn status(&self) -> u16 {
        self.first_line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    /// How the body ends.
    pub fn body(&self) -> Body {
        if self.header("transfer-encoding").is_some_and(|encoding| encoding.contains("chunked")) {
            return Body::Chunked;
        }
        match self.header("content-length").and_then(|length| length.parse().ok()) {
            Some(length) => Body::Length(length),
            None if self.first_line.starts_with("HTTP/") => Body::UntilClosed,
            None => Body::Length(0),
        }
    }
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    Length(u64),
    Chunked,
    UntilClosed,
}

impl Body {
    /// Reads the next piece as it is on the wire. Empty: the body is over.
    pub async fn piece(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
        const PIECE: u64 = 64 * 1024;
        match self {
            Self::Length(0) => Ok(Vec::new()),
            Self::Length(left) => {
                let mut piece = vec![0; usize::try_from(PIECE.min(*left)).unwrap()];
                let read = from.read(&mut piece).await?;
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                piece.truncate(read);
                *left -= read as u64;
                Ok(piece)
            }
            Self::Chunked => {
                let mut piece = line(from).await?;
                let size = String::from_utf8_lossy(&piece).trim().split(';').next().unwrap_or_default().to_owned();
                let size = u64::from_str_radix(&size, 16).map_err(io::Error::other)?;
                let begin = piece.len();
                piece.resize(begin + usize::try_from(size).unwrap() + 2, 0);
                from.read_exact(&mut piece[begin..]).await?;
                if size == 0 {
                    *self = Self::Length(0);
                }
                Ok(piece)
            }
            Self::UntilClosed => {
                let mut piece = vec![0; usize::try_from(PIECE).unwrap()];
                let read = from.read(&mut piece).await?;
                piece.truncate(read);
                Ok(piece)
            }
        }
    }

    /// Reads all of it.
    pub async fn all(mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let piece = self.piece(from).await?;
            if piece.is_empty() {
                return Ok(all);
            }
            all.extend(piece);
        }
    }
}

async fn line(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(from.read_u8().await?);
    }
    Ok(line)
}
