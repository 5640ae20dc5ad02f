//! Chunks put together page by page, as no sound writer would.

use std::collections::VecDeque;
use std::sync::Arc;

use parquet::column::page::PageMetadata;
use parquet::data_type::Int64Type;
use parquet::encodings::encoding::get_encoder;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::SchemaDescriptor;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::merge::MergeError;
use crate::merge::columnar::Limits;

struct Pages(VecDeque<Page>);

impl Iterator for Pages {
    type Item = parquet::errors::Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> parquet::errors::Result<Option<Page>> {
        Ok(self.0.pop_front())
    }

    fn peek_next_page(&mut self) -> parquet::errors::Result<Option<PageMetadata>> {
        Ok(self.0.front().map(|page| PageMetadata {
            num_rows: None,
            num_levels: Some(page.num_values() as usize),
            is_dict: page.is_dictionary_page(),
        }))
    }

    fn skip_next_page(&mut self) -> parquet::errors::Result<()> {
        self.0.pop_front();
        Ok(())
    }

    fn at_record_boundary(&mut self) -> parquet::errors::Result<bool> {
        Ok(true)
    }
}

/// A column of required 64-bit integers.
fn column() -> ColumnDescPtr {
    let schema = parse_message_type("message m { required int64 v; }").unwrap();
    SchemaDescriptor::new(Arc::new(schema)).column(0)
}

fn dictionary(values: &[i64]) -> Page {
    Page::DictionaryPage {
        buf: values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>().into(),
        num_values: u32::try_from(values.len()).unwrap(),
        encoding: Encoding::PLAIN,
        is_sorted: false,
    }
}

fn data(encoding: Encoding, claimed: u32, bytes: Vec<u8>) -> Page {
    Page::DataPage {
        buf: bytes.into(),
        num_values: claimed,
        encoding,
        def_level_encoding: Encoding::RLE,
        rep_level_encoding: Encoding::RLE,
        statistics: None,
    }
}

/// A page of codes of 8 bits.
fn codes(codes: &[u32]) -> Page {
    let mut bytes = vec![8];
    hybrid::encode(codes, 8, &mut bytes);
    data(Encoding::RLE_DICTIONARY, u32::try_from(codes.len()).unwrap(), bytes)
}

fn plain(values: &[i64]) -> Page {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    data(Encoding::PLAIN, u32::try_from(values.len()).unwrap(), bytes)
}

fn delta(values: &[i64]) -> Page {
    let mut encoder = get_encoder::<Int64Type>(Encoding::DELTA_BINARY_PACKED, &column()).unwrap();
    encoder.put(values).unwrap();
    let bytes = encoder.flush_buffer().unwrap();
    data(Encoding::DELTA_BINARY_PACKED, u32::try_from(values.len()).unwrap(), bytes.to_vec())
}

fn decode_with(rows: usize, pages: &[Page], cancel: &CancellationToken) -> Result<Vec<u64>, Refusal> {
    let limits = Limits { memory_bytes: 1 << 20, cancel };
    let open = || -> Result<Box<dyn PageReader>, Refusal> { Ok(Box::new(Pages(pages.iter().cloned().collect()))) };
    let chunk = decode(&column(), rows, &open, &Room::new(&limits))?;
    match &*chunk.plain() {
        Plain::Word8(values) => Ok(values.clone()),
        other => panic!("{other:?}"),
    }
}

fn decoded(rows: usize, pages: &[Page]) -> Result<Vec<u64>, Refusal> {
    decode_with(rows, pages, &CancellationToken::new())
}

fn damage(rows: usize, pages: &[Page]) -> String {
    match decoded(rows, pages) {
        Err(Refusal::Damaged(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pages_with_and_without_codes_are_one_column() {
    let pages = [dictionary(&[7, 8]), codes(&[0, 1, 1]), plain(&[5]), codes(&[0])];
    assert_eq!(decoded(5, &pages).unwrap(), [7, 8, 8, 5, 7]);
}

#[test]
fn a_second_dictionary_is_damage_wherever_it_stands() {
    let wanted = "a dictionary that is not at the start, or a second one";
    let [first, second] = [dictionary(&[7, 8]), dictionary(&[9])];
    assert_eq!(damage(2, &[first.clone(), second.clone(), codes(&[0, 0])]), wanted);
    assert_eq!(damage(2, &[first, codes(&[0]), second.clone(), codes(&[0])]), wanted);
    assert_eq!(damage(2, &[plain(&[1]), second, codes(&[0])]), wanted);
}

#[test]
fn a_page_is_not_believed_to_have_more_rows_than_its_row_group() {
    let claims = |claimed, encoding, bytes: &[u8]| data(encoding, claimed, bytes.to_vec());
    // A run of two billion equal codes takes six bytes.
    let run = [8, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0];
    let pages = [dictionary(&[7]), claims(i32::MAX.unsigned_abs(), Encoding::RLE_DICTIONARY, &run)];
    assert_eq!(damage(3, &pages), "more values than the 3 rows of the row group");
    assert_eq!(damage(3, &[plain(&[1, 2]), plain(&[3, 4])]), "more values than the 3 rows of the row group");
    assert_eq!(damage(3, &[plain(&[1, 2])]), "2 values in a row group of 3 rows");
    assert_eq!(damage(9, &[claims(9, Encoding::PLAIN, &[0; 71])]), "a page with fewer values than it says");
    assert_eq!(damage(1, &[dictionary(&[7]), codes(&[1])]), "a code beyond its dictionary");
}

#[test]
fn an_empty_page_amid_others_ends_nothing() {
    let empty = data(Encoding::PLAIN, 0, Vec::new());
    assert_eq!(decoded(3, &[plain(&[1]), empty, plain(&[2, 3])]).unwrap(), [1, 2, 3]);
    let pages = [delta(&[1, 2]), delta(&[]), delta(&[3]), delta(&[])];
    assert_eq!(decoded(3, &pages).unwrap(), [1, 2, 3]);
    let pages = [dictionary(&[7]), codes(&[0]), delta(&[]), delta(&[3]), codes(&[0])];
    assert_eq!(decoded(3, &pages).unwrap(), [7, 3, 7]);
}

#[test]
fn between_two_pages_it_is_looked_whether_the_merge_is_still_wanted() {
    let cancel = CancellationToken::new();
    cancel.cancel();
    for pages in [vec![plain(&[1])], vec![dictionary(&[7]), codes(&[0])], vec![delta(&[1])]] {
        let refusal = decode_with(1, &pages, &cancel).unwrap_err();
        assert!(matches!(refusal, Refusal::Failed(MergeError::Cancelled)), "{refusal:?}");
    }
    let limits = Limits { memory_bytes: 1 << 20, cancel: &cancel };
    let refusal = decode_generally(&column(), Box::new(Pages(vec![delta(&[1])].into())), &Room::new(&limits));
    assert!(matches!(refusal, Err(Refusal::Failed(MergeError::Cancelled))));
}

/// A few bytes of codes stand for any number of rows.
#[test]
fn a_chunk_that_becomes_larger_than_its_pages_is_left_to_duckdb() {
    let unsuited = |rows: usize, pages: &[Page]| match decoded(rows, pages) {
        Err(Refusal::Unsuited(why)) => why,
        other => panic!("{other:?}"),
    };
    let many = codes(&vec![0; 100_000]);
    assert_eq!(decoded(100_000, &[dictionary(&[7]), many.clone()]).unwrap().len(), 100_000);
    let written_out = unsuited(100_001, &[dictionary(&[7]), many.clone(), plain(&[5])]);
    assert!(written_out.contains("of values of one chunk"), "{written_out}");
    let rows = unsuited(200_000, &[dictionary(&[7]), many.clone(), many]);
    assert!(rows.contains("of rows of one chunk"), "{rows}");
}
