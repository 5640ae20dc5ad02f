//! What the pages of a chunk claim, looked at before a decoder believes it: it asks for as much memory at once.
//!
//! What must hold: nothing here takes more memory than a header does, whatever the pages claim or become.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use parquet::basic::Compression;
use parquet::column::page::PageReader;
use parquet::file::metadata::ColumnChunkMetaData;

use super::super::page_headers::{PageHeader, Pages, ReadAt};
use super::Refusal;
use super::chunk::judge;
use super::room::Room;

/// Refuses a chunk with a page that cannot become what it claims, and one whose pages would not fit. Whether the claims of all pages
/// are known.
pub(super) fn check_claims(
    source: &impl ReadAt,
    chunk: &ColumnChunkMetaData,
    room: &Room<'_>,
) -> Result<bool, Refusal> {
    let codec = chunk.compression();
    let mut claimed = 0_u64;
    let mut pages = Pages::of(source, chunk);
    for page in pages.by_ref() {
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
    room.check(claimed, "of the pages of one chunk")?;
    Ok(pages.were_all_seen())
}

/// What a decoder says of page headers of which nothing is known here. It is not asked for what is behind them: nobody has looked
/// at what that claims.
pub(super) fn judge_headers(mut pages: Box<dyn PageReader>) -> Refusal {
    loop {
        match pages.peek_next_page().and_then(|page| page.map(|_| pages.skip_next_page()).transpose()) {
            Ok(Some(())) => {}
            Ok(None) => return Refusal::Unsuited("page headers that not everybody reads alike".to_owned()),
            Err(error) => return judge(error),
        }
    }
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use bytes::Bytes;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::file::serialized_reader::SerializedPageReader;
    use tokio_util::sync::CancellationToken;

    use super::super::Limits;
    use super::*;
    use crate::merge::fixtures::{Inputs, times, with_unknown_page_field};

    fn with_unknown_field(length: usize) -> (Bytes, ColumnChunkMetaData) {
        let mut files = Inputs::new();
        files.columns(&[("time", times(0, 1000))]);
        let bytes = Bytes::from(with_unknown_page_field(&fs::read(&files.inputs[0].path).unwrap(), length));
        let reader = SerializedFileReader::new(bytes.clone()).unwrap();
        (bytes, reader.metadata().row_group(0).column(0).clone())
    }

    fn are_known(bytes: &Bytes, chunk: &ColumnChunkMetaData) -> bool {
        let limits = Limits { memory_bytes: 1 << 30, cancel: &CancellationToken::new() };
        check_claims(&&bytes[..], chunk, &Room::new(&limits)).unwrap()
    }

    fn judged(bytes: &Bytes, chunk: &ColumnChunkMetaData) -> Refusal {
        judge_headers(Box::new(SerializedPageReader::new(Arc::new(bytes.clone()), chunk, 1000, None).unwrap()))
    }

    #[test]
    fn a_header_too_long_to_be_walked_says_nothing_about_its_file() {
        let (bytes, chunk) = with_unknown_field(1000);
        assert!(are_known(&bytes, &chunk));
        let (bytes, chunk) = with_unknown_field(1 << 21);
        assert!(!are_known(&bytes, &chunk));
        let refusal = judged(&bytes, &chunk);
        assert!(matches!(&refusal, Refusal::Unsuited(why) if why.contains("page headers")), "{refusal:?}");
    }

    #[test]
    fn a_header_that_nobody_can_read_is_damage() {
        let (bytes, chunk) = with_unknown_field(1000);
        let mut damaged = bytes.to_vec();
        let first = usize::try_from(Pages::of(&&bytes[..], &chunk).next().unwrap().start).unwrap() - 1;
        damaged[first] = 0xff;
        let damaged = Bytes::from(damaged);
        assert!(!are_known(&damaged, &chunk));
        let refusal = judged(&damaged, &chunk);
        assert!(matches!(refusal, Refusal::Damaged(_)), "{refusal:?}");
    }
}
