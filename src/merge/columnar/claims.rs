//! What the pages of a chunk claim, looked at before a decoder believes it: it asks for as much memory at once.
//!
//! What must hold: nothing here takes more memory than a header does, whatever the pages claim or become.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use parquet::basic::Compression;
use parquet::file::metadata::ColumnChunkMetaData;

use super::super::page_headers::{PageHeader, Pages, ReadAt};
use super::Refusal;
use super::room::Room;

/// Refuses a chunk with a page that cannot become what it claims, and one whose pages would not fit.
pub(super) fn check_claims(source: &impl ReadAt, chunk: &ColumnChunkMetaData, room: &Room<'_>) -> Result<(), Refusal> {
    let codec = chunk.compression();
    let mut claimed = 0_u64;
    for page in Pages::of(source, chunk) {
        if page.is_impossible(codec) {
            let PageHeader { claimed_bytes, stored_bytes, .. } = page;
            let claim =
                format!("a page claims {claimed_bytes} bytes, more than its {stored_bytes} can become by {codec}");
            return Err(Refusal::Damaged(claim));
        }
        // Its frames are decoded for as long as they go on.
        let at_most =
            if codec == Compression::LZ4 { page.stored_bytes.saturating_mul(256) } else { page.claimed_bytes };
        claimed = claimed.saturating_add(at_most);
    }
    room.check(claimed, "of the pages of one chunk")
}

/// Decompresses into nothing what a decoder would decompress without a limit: that is gzip.
pub(super) fn check_expansion(source: &impl ReadAt, chunk: &ColumnChunkMetaData) -> Result<(), Refusal> {
    if !matches!(chunk.compression(), Compression::GZIP(_)) {
        return Ok(());
    }
    for page in Pages::of(source, chunk) {
        let compressed = Piece { source, at: page.start, end: page.start + page.stored_bytes };
        let more = page.claimed_bytes.saturating_add(1);
        // What is no gzip is the decoder's to judge.
        let found = io::copy(&mut MultiGzDecoder::new(compressed).take(more), &mut io::sink());
        if found.is_ok_and(|found| found == more) {
            return Err(Refusal::Damaged(format!("a page claims {} bytes and has more", page.claimed_bytes)));
        }
    }
    Ok(())
}

/// A stretch of a file, read from its beginning.
struct Piece<'a, R> {
    source: &'a R,
    at: u64,
    end: u64,
}

impl<R: ReadAt> Read for Piece<'_, R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = left.min(to.len());
        let read = self.source.read_at(self.at, &mut to[..length])?;
        self.at += read as u64;
        Ok(read)
    }
}
