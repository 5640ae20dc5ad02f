//! Where the parts of a Parquet file lie: pages, their headers, their indexes and filters, the footer.

use std::ops::Range;

use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

/// A page: its header, and the data behind it.
#[derive(Debug, Clone)]
pub struct Page {
    pub header: Range<usize>,
    pub data: Range<usize>,
}

/// A sound file and its parts.
#[derive(Debug)]
pub struct Anatomy {
    pub bytes: Vec<u8>,
    pub metadata: ParquetMetaData,
    pub pages: Vec<Page>,
    pub footer: Range<usize>,
}

impl Anatomy {
    pub fn of(bytes: Vec<u8>) -> Self {
        let end = bytes.len() - 8;
        let length = u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap()) as usize;
        let footer = end - length..end;
        let metadata = ParquetMetaDataReader::decode_metadata(&bytes[footer.clone()]).unwrap();
        let mut pages = Vec::new();
        for chunk in metadata.row_groups().iter().flat_map(parquet::file::metadata::RowGroupMetaData::columns) {
            let (start, length) = chunk.byte_range();
            let (mut at, end) = (usize::try_from(start).unwrap(), usize::try_from(start + length).unwrap());
            while at < end {
                let (header, size) = page_header(&bytes[at..]);
                let data = at + header..at + header + size;
                pages.push(Page { header: at..data.start, data: data.clone() });
                at = data.end;
            }
        }
        Self { bytes, metadata, pages, footer }
    }

    /// What lies between the pages and the footer: the indexes of pages, and the filters. They are optional.
    pub fn beside_the_pages(&self) -> Vec<Range<usize>> {
        let chunks = self.metadata.row_groups().iter().flat_map(parquet::file::metadata::RowGroupMetaData::columns);
        let parts = chunks.flat_map(|chunk| {
            [
                (chunk.column_index_offset(), chunk.column_index_length()),
                (chunk.offset_index_offset(), chunk.offset_index_length()),
                (chunk.bloom_filter_offset(), chunk.bloom_filter_length()),
            ]
        });
        let ranges = parts.filter_map(|(offset, length)| {
            let start = usize::try_from(offset?).unwrap();
            // Without a length, as older writers leave it, its end is not known.
            Some(start..start + usize::try_from(length.unwrap_or(0)).unwrap())
        });
        ranges.collect()
    }

    /// Every offset at which one part ends and another begins, and the places inside of the last eight bytes.
    pub fn boundaries(&self) -> Vec<usize> {
        let mut all = vec![0, 1, 3, 4, self.footer.start, self.footer.end];
        all.extend(self.pages.iter().flat_map(|page| [page.header.start, page.data.start, page.data.end]));
        all.extend(self.beside_the_pages().iter().flat_map(|part| [part.start, part.end]));
        all.extend(self.footer.end + 1..self.bytes.len());
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The length of a page's header, and of the data that it announces.
fn page_header(bytes: &[u8]) -> (usize, usize) {
    let mut at = 0;
    let mut compressed = 0;
    skip_struct(bytes, &mut at, &mut |id, value| {
        if id == 3 {
            compressed = value;
        }
    });
    (at, usize::try_from(compressed).unwrap())
}

fn skip_struct(bytes: &[u8], at: &mut usize, seen: &mut dyn FnMut(u8, i64)) {
    let mut id = 0;
    loop {
        let header = bytes[*at];
        *at += 1;
        if header == 0 {
            return;
        }
        id += header >> 4;
        match header & 15 {
            1 | 2 => {}
            3 => *at += 1,
            4..=6 => {
                let raw = varint(bytes, at);
                seen(id, (raw >> 1).cast_signed() ^ -(raw & 1).cast_signed());
            }
            8 => *at += usize::try_from(varint(bytes, at)).unwrap(),
            12 => skip_struct(bytes, at, &mut |_, _| ()),
            other => panic!("a page header with a value of type {other}"),
        }
    }
}

pub fn varint(bytes: &[u8], at: &mut usize) -> u64 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return value;
        }
        shift += 7;
    }
}
