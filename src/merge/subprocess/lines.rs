//! Lines of bounded length from a child's output, whatever the child writes.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// What to do with a line that is longer than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooLong {
    /// Keep the beginning, drop the rest.
    Cut,
    /// Fail, without waiting for the end of the line.
    Fail,
}

/// Reads lines. Never holds more than the limit and one read buffer.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: BufReader<R>,
    limit_bytes: usize,
    too_long: TooLong,
    /// The line so far. Kept here, so that a call that is dropped half way loses nothing.
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(input: R, limit_bytes: usize, too_long: TooLong) -> Self {
        Self { input: BufReader::new(input), limit_bytes, too_long, line: Vec::new() }
    }

    /// The next line without its line feed; the last may lack one. `None` at the end. May be dropped at any time and
    /// called again.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let chunk = self.input.fill_buf().await?;
            let ended = chunk.is_empty();
            let end_of_line = chunk.iter().position(|byte| *byte == b'\n');
            let part = &chunk[..end_of_line.unwrap_or(chunk.len())];
            let kept = part.len().min(self.limit_bytes - self.line.len());
            let fits = kept == part.len();
            self.line.extend_from_slice(&part[..kept]);
            let used = part.len() + usize::from(end_of_line.is_some());
            self.input.consume(used);
            if !fits && self.too_long == TooLong::Fail {
                let limit = self.limit_bytes;
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a line of more than {limit} bytes")));
            }
            if end_of_line.is_some() || (ended && !self.line.is_empty()) {
                return Ok(Some(std::mem::take(&mut self.line)));
            }
            if ended {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(text: &str, too_long: TooLong) -> Vec<String> {
        let mut lines = Lines::new(text.as_bytes(), 4, too_long);
        let mut seen = Vec::new();
        loop {
            match lines.next().await {
                Ok(Some(line)) => seen.push(String::from_utf8(line).unwrap()),
                Ok(None) => return seen,
                Err(error) => {
                    seen.push(error.to_string());
                    return seen;
                }
            }
        }
    }

    #[tokio::test]
    async fn lines_are_split_and_long_ones_are_cut_or_refused() {
        assert_eq!(all("ab\n\nabcd\nend", TooLong::Fail).await, ["ab", "", "abcd", "end"]);
        assert_eq!(all("abcdefgh\nxy\n", TooLong::Cut).await, ["abcd", "xy"]);
        assert_eq!(all("ab\nabcde", TooLong::Fail).await, ["ab", "a line of more than 4 bytes"]);
        assert!(all("", TooLong::Fail).await.is_empty());
    }
}
