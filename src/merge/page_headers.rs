//! The headers of a column chunk's pages, without the data behind them.
//!
//! They answer two questions before anybody decodes anything: how many values there are, whatever the footer states; and how
//! large a page says that it will be. A decoder that takes the footer's word reads as many rows as that allows and overlooks
//! the rest; one that takes a page's word asks for memory that is not there.
//!
//! What must hold: no header is believed that does not lie within its chunk; the walk allocates no more than [`LONGEST_HEADER`]
//! and ends at the first header that makes no sense, without a verdict. Deliberately not here: what the numbers mean for the
//! file. What pages hide that lie outside every chunk, nobody can tell from what a writer left unused.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use parquet::basic::Compression;
use parquet::file::metadata::ColumnChunkMetaData;

use super::compact_protocol::{I16, I32, I64, STRUCT, Walk};
use super::definition::{DATA_PAGE_HEADER, DATA_PAGE_HEADER_V2, DICTIONARY_PAGE_HEADER, Fields, PAGE_HEADER};

/// A file begins with its magic number.
const MAGIC_BYTES: i64 = 4;

/// Bytes read at a time. A header has some thirty, or more with statistics in it.
const WINDOW: usize = 4 << 10;

/// Longer ones, with enormous texts as statistics, are not looked at.
const LONGEST_HEADER: usize = 1 << 20;

/// Beside what a codec makes of the compressed bytes: levels that are not compressed, and the codec's own frame.
const SLACK_BYTES: u64 = 64 << 10;

/// What one header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageHeader {
    /// Of a data page, missing ones counted. Other pages have none. A number that cannot be, a negative one or one of more than 31
    /// bits, is taken for the largest: rows that nobody can count must not be lost.
    pub(super) values: u64,
    /// Of a dictionary.
    pub(super) entries: u64,
    /// The size of the page before compression.
    pub(super) claimed_bytes: u64,
    /// Where its data begins in the file, and how long that is.
    pub(super) start: u64,
    pub(super) stored_bytes: u64,
}

impl PageHeader {
    /// Whether it is a dictionary of more values than it has room for. Decoders ask for memory for as many as it says.
    pub(super) fn has_too_many_entries(&self) -> bool {
        self.entries > self.claimed_bytes.saturating_mul(8)
    }

    /// Whether no data of this length can become what the page claims.
    pub(super) fn is_impossible(&self, codec: Compression) -> bool {
        // How far a codec can expand at most.
        let most: u64 = match codec {
            // A copy of 64 bytes takes three.
            Compression::SNAPPY => 22,
            // A run grows by 255 with each byte.
            Compression::LZ4 | Compression::LZ4_RAW => 256,
            // Deflate: 258 bytes for two bits.
            Compression::GZIP(_) => 1032,
            // A block of 128 KiB of one value takes four bytes.
            Compression::ZSTD(_) => 32 << 10,
            Compression::UNCOMPRESSED => 1,
            _ => return false,
        };
        self.claimed_bytes > self.stored_bytes.saturating_mul(most).saturating_add(SLACK_BYTES)
    }
}

/// Where the dictionary of a chunk lies. Some writers state an offset for a chunk that has none: then it lies in the file's
/// magic number, before any page.
pub(super) fn dictionary_page(chunk: &ColumnChunkMetaData) -> Option<i64> {
    chunk.dictionary_page_offset().filter(|&offset| !(0..MAGIC_BYTES).contains(&offset))
}

/// Where the first page of a chunk lies.
pub(super) fn first_page(chunk: &ColumnChunkMetaData) -> i64 {
    dictionary_page(chunk).unwrap_or(chunk.data_page_offset())
}

/// Reads some bytes at an offset, at most as many as there is room for; how many.
pub(super) trait ReadAt {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize>;
}

impl ReadAt for File {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(self, to, offset)
    }
}

impl ReadAt for &[u8] {
    fn read_at(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        let from = usize::try_from(offset).ok().and_then(|from| self.get(from..)).unwrap_or_default();
        let length = from.len().min(to.len());
        to[..length].copy_from_slice(&from[..length]);
        Ok(length)
    }
}

/// The pages of a chunk, in order.
pub(super) struct Pages<'a, R> {
    source: &'a R,
    at: u64,
    end: u64,
    /// Bytes of the file from `window_start` on.
    window: Vec<u8>,
    window_start: u64,
    broken: bool,
}

impl<'a, R: ReadAt> Pages<'a, R> {
    pub(super) fn of(source: &'a R, chunk: &ColumnChunkMetaData) -> Self {
        let start = first_page(chunk);
        let end = start.saturating_add(chunk.compressed_size());
        Self::between(source, u64::try_from(start).unwrap_or_default(), u64::try_from(end).unwrap_or_default())
    }

    fn between(source: &'a R, at: u64, end: u64) -> Self {
        Self { source, at, end, window: Vec::new(), window_start: 0, broken: false }
    }

    /// Whether every page was seen: the last one ended where the chunk does.
    pub(super) fn were_all_seen(&self) -> bool {
        !self.broken && self.at == self.end
    }

    /// What is known of the bytes from here to the end of the chunk.
    fn known(&self) -> &[u8] {
        let from = self.at.checked_sub(self.window_start).and_then(|from| usize::try_from(from).ok());
        let known = from.and_then(|from| self.window.get(from..)).unwrap_or_default();
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        &known[..known.len().min(left)]
    }

    /// Reads on from here. `false`: there is no more, or not more than a header may have.
    fn read_more(&mut self) -> bool {
        let known = self.known().len();
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = if known < WINDOW { WINDOW } else { known.saturating_mul(16) }.min(LONGEST_HEADER).min(left);
        if wanted <= known {
            return false;
        }
        self.window.resize(wanted, 0);
        self.window_start = self.at;
        let mut filled = 0;
        while filled < wanted {
            match self.source.read_at(self.at + filled as u64, &mut self.window[filled..]) {
                Ok(0) | Err(_) => break,
                Ok(more) => filled += more,
            }
        }
        self.window.truncate(filled);
        filled > known
    }
}

impl<R: ReadAt> Iterator for Pages<'_, R> {
    type Item = PageHeader;

    fn next(&mut self) -> Option<PageHeader> {
        while self.at < self.end {
            let known = self.known();
            let Ok((header, length)) = parse(known) else {
                if self.read_more() {
                    continue;
                }
                break;
            };
            let header = PageHeader { start: self.at + length, ..header };
            let Some(next) = header.start.checked_add(header.stored_bytes).filter(|&next| next <= self.end) else {
                break;
            };
            self.at = next;
            return Some(header);
        }
        self.broken |= self.at < self.end;
        self.at = self.end;
        None
    }
}

/// Walks the pages of a chunk that is all of `bytes`; how many there are. For fuzzing.
///
/// # Panics
/// When a page does not lie within the bytes, behind the one before it.
#[doc(hidden)]
#[must_use]
pub fn count_pages(bytes: &[u8]) -> usize {
    let length = bytes.len() as u64;
    let mut last_end = 0;
    Pages::between(&bytes, 0, length)
        .inspect(|page| {
            assert!(page.start > last_end && page.start + page.stored_bytes <= length, "{page:?}");
            last_end = page.start + page.stored_bytes;
            let _ = page.is_impossible(Compression::SNAPPY);
        })
        .count()
}

/// Fields of a page header, and those of the structures in it, by their numbers in Parquet's definition.
const TYPE: i64 = 1;
const UNCOMPRESSED_SIZE: i64 = 2;
const COMPRESSED_SIZE: i64 = 3;
const DATA_PAGE: i64 = 5;
const DICTIONARY_PAGE: i64 = 7;
const DATA_PAGE_V2: i64 = 8;
const NUM_VALUES: i64 = 1;

/// Types of pages. Each has a header of its own, of which only that of the page's type counts.
const TYPE_DATA_PAGE: i64 = 0;
const TYPE_INDEX_PAGE: i64 = 1;
const TYPE_DICTIONARY_PAGE: i64 = 2;
const TYPE_DATA_PAGE_V2: i64 = 3;

/// The header that begins here, with its length.
fn parse(bytes: &[u8]) -> Result<(PageHeader, u64), String> {
    let mut walk = Walk { rest: bytes };
    let (mut kind_of_page, mut data, mut data_v2, mut dictionary, mut claimed, mut stored) =
        (-1, None, None, None, -1, -1);
    walk.fields(&mut |walk, id, kind| match (id, kind) {
        (TYPE, I16 | I32 | I64) => walk.number().map(|kind| kind_of_page = kind),
        (UNCOMPRESSED_SIZE, I16 | I32 | I64) => walk.number().map(|size| claimed = size),
        (COMPRESSED_SIZE, I16 | I32 | I64) => walk.number().map(|size| stored = size),
        (DATA_PAGE, STRUCT) => number_of_values(walk, DATA_PAGE_HEADER).map(|count| data = count),
        (DATA_PAGE_V2, STRUCT) => number_of_values(walk, DATA_PAGE_HEADER_V2).map(|count| data_v2 = count),
        (DICTIONARY_PAGE, STRUCT) => number_of_values(walk, DICTIONARY_PAGE_HEADER).map(|count| dictionary = count),
        _ => walk.field(PAGE_HEADER, id, kind, 1),
    })?;
    let (values, entries) = match kind_of_page {
        TYPE_DATA_PAGE => (data, Some(0)),
        TYPE_INDEX_PAGE => (Some(0), Some(0)),
        TYPE_DICTIONARY_PAGE => (Some(0), dictionary),
        TYPE_DATA_PAGE_V2 => (data_v2, Some(0)),
        _ => (None, None),
    };
    let (Some(values), Some(entries)) = (values, entries) else {
        return Err(format!("a page of type {kind_of_page} without its header"));
    };
    // Readers take 32 bits of it, of which they make another number.
    let size = |number: i64| match i32::try_from(number) {
        Ok(size @ 0..) => Ok(u64::from(size.unsigned_abs())),
        _ => Err(format!("a page of {number} bytes")),
    };
    let header = PageHeader { values, entries, claimed_bytes: size(claimed)?, stored_bytes: size(stored)?, start: 0 };
    Ok((header, (bytes.len() - walk.rest.len()) as u64))
}

/// Walks the header of a kind of page. They all have it in the same field. What no reader can count to is taken for the largest.
fn number_of_values(walk: &mut Walk<'_>, fields: Fields) -> Result<Option<u64>, String> {
    let mut values = None;
    walk.fields(&mut |walk, id, kind| match (id, kind) {
        (NUM_VALUES, I16 | I32 | I64) => walk.number().map(|count| {
            let count = i32::try_from(count).ok().and_then(|count| u64::try_from(count).ok());
            values = Some(count.unwrap_or(u64::MAX));
        }),
        _ => walk.field(fields, id, kind, 2),
    })?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;
    use crate::merge::fixtures::{Inputs, times};

    /// As some writers state it for chunks without a dictionary; it must hide no page from the look, and damage no file.
    #[test]
    fn an_offset_of_a_dictionary_before_any_page_is_none() {
        let mut files = Inputs::new();
        files.query("SELECT range AS time FROM range(1000)");
        let file = File::open(&files.inputs[0].path).unwrap();
        let reader = SerializedFileReader::new(file.try_clone().unwrap()).unwrap();
        let chunk = reader.metadata().row_group(0).column(0).clone();
        let first = first_page(&chunk);
        let pages = Pages::of(&file, &chunk).collect::<Vec<_>>();
        for offset in 0..4 {
            let odd = chunk
                .clone()
                .into_builder()
                .set_data_page_offset(first)
                .set_dictionary_page_offset(Some(offset))
                .build()
                .unwrap();
            assert_eq!((dictionary_page(&odd), first_page(&odd)), (None, first));
            assert_eq!(Pages::of(&file, &odd).collect::<Vec<_>>(), pages);
        }
    }

    #[test]
    fn the_pages_are_those_that_the_library_finds() {
        let mut files = Inputs::new();
        files.query("SELECT range AS time, 'host-' || (range % 50) AS host FROM range(300000)");
        files.columns(&[("time", times(0, 50_000))]);
        for input in &files.inputs {
            let reader = SerializedFileReader::new(File::open(&input.path).unwrap()).unwrap();
            let bytes = std::fs::read(&input.path).unwrap();
            let mut pages = 0;
            for (number, row_group) in reader.metadata().row_groups().iter().enumerate() {
                for (column, chunk) in row_group.columns().iter().enumerate() {
                    let file = File::open(&input.path).unwrap();
                    let found: Vec<PageHeader> = Pages::of(&file, chunk).collect();
                    assert_eq!(found, Pages::of(&&bytes[..], chunk).collect::<Vec<_>>(), "from disk and from memory");
                    let row_group = reader.get_row_group(number).unwrap();
                    let expected: Vec<(u64, u64)> = row_group
                        .get_column_page_reader(column)
                        .unwrap()
                        .map(Result::unwrap)
                        .map(|page| {
                            let values = if page.is_data_page() { page.num_values() } else { 0 };
                            (values.into(), page.buffer().len() as u64)
                        })
                        .collect();
                    assert_eq!(found.iter().map(|p| (p.values, p.claimed_bytes)).collect::<Vec<_>>(), expected);
                    assert!(found.iter().all(|page| !page.is_impossible(chunk.compression())));
                    pages += found.len();
                }
            }
            assert!(pages > 2, "{pages} pages");
        }
    }

    #[test]
    fn a_claim_is_impossible_when_no_such_data_can_become_so_much() {
        let page =
            |claimed_bytes, stored_bytes| PageHeader { values: 1, entries: 0, claimed_bytes, start: 0, stored_bytes };
        let zstd = Compression::ZSTD(parquet::basic::ZstdLevel::default());
        for (codec, claimed, impossible) in [
            (Compression::SNAPPY, 2 << 30, true),
            (Compression::SNAPPY, 200_000, false),
            (Compression::LZ4_RAW, 1 << 30, true),
            (zstd, 2 << 30, true),
            (zstd, 200 << 20, false),
            (Compression::UNCOMPRESSED, 2 << 30, true),
            (Compression::UNCOMPRESSED, 10_000, false),
        ] {
            assert_eq!(page(claimed, 10_000).is_impossible(codec), impossible, "{codec:?}, {claimed}");
        }
    }

    #[test]
    fn headers_that_make_no_sense_end_the_walk_without_a_verdict() {
        let mut files = Inputs::new();
        files.columns(&[("time", times(0, 1000))]);
        let reader = SerializedFileReader::new(File::open(&files.inputs[0].path).unwrap()).unwrap();
        let chunk = reader.metadata().row_group(0).column(0).clone();
        for fill in [0x00, 0x15, 0x1c, 0xff] {
            let bytes = vec![fill; 10_000];
            assert_eq!(Pages::of(&&bytes[..], &chunk).count(), 0, "{fill}");
        }
        let nothing: &[u8] = &[];
        assert_eq!(Pages::of(&nothing, &chunk).count(), 0);
    }

    /// A header of a page of so many bytes: its type, and which kinds of headers are in it, each with its number of values.
    fn header(kind: u8, bytes: &[u8], kinds: &[(u8, &[u8])]) -> Vec<u8> {
        let mut header = vec![0x15, kind << 1, 0x15];
        header.extend(bytes);
        header.push(0x15);
        header.extend(bytes);
        let mut last = 3;
        for (field, count) in kinds {
            header.extend([(field - last) << 4 | STRUCT, 0x15]);
            header.extend(*count);
            header.push(0x00);
            last = *field;
        }
        header.push(0x00);
        header
    }

    #[test]
    fn the_header_of_the_pages_own_type_counts() {
        let (seven, nine): (&[u8], &[u8]) = (&[14], &[18]);
        let of = |kind, kinds: &[(u8, &[u8])]| {
            parse(&header(kind, &[20], kinds)).map(|(page, _)| (page.values, page.entries, page.stored_bytes))
        };
        let all = [(5, seven), (7, &[2][..]), (8, nine)];
        assert_eq!(of(0, &all), Ok((7, 0, 10)));
        assert_eq!(of(1, &all), Ok((0, 0, 10)));
        assert_eq!(of(2, &all), Ok((0, 1, 10)));
        assert_eq!(of(3, &all), Ok((9, 0, 10)));
        assert!(of(4, &all).is_err());
        for (kind, others) in [(0, &all[1..]), (2, &all[..1]), (3, &all[..2])] {
            assert!(of(kind, others).is_err(), "a page of type {kind} without its header");
        }
    }

    #[test]
    fn numbers_beyond_those_that_readers_take_are_not_what_they_make_of_them() {
        // 2^32 + 1 and -1.
        for number in [&[0x82, 0x80, 0x80, 0x80, 0x20][..], &[0x01]] {
            let (page, _) = parse(&header(0, &[20], &[(5, number)])).unwrap();
            assert_eq!(page.values, u64::MAX);
            assert!(parse(&header(0, number, &[(5, &[2])])).is_err());
        }
    }
}
