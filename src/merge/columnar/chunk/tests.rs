//! Chunks put together page by page, as no sound writer would.

use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::encodings::encoding::get_encoder;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::SchemaDescriptor;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::merge::MergeError;
use crate::merge::columnar::Limits;
use crate::merge::fixtures::ForgedPages;

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
    let open = || -> Result<Box<dyn PageReader>, Refusal> { Ok(Box::new(ForgedPages::new(pages))) };
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
    assert!(damage(3, &pages).ends_with("more values than the 3 of its chunk"));
    assert!(damage(3, &[plain(&[1, 2]), plain(&[3, 4])]).ends_with("more values than the 3 of its chunk"));
    assert!(damage(3, &[delta(&[1, 2]), delta(&[3, 4])]).ends_with("more values than the 3 of its chunk"));
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
    let refusal = decode_generally(&column(), Box::new(ForgedPages::new(&[delta(&[1])])), &Room::new(&limits));
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

/// The same where the library decodes: texts in a dictionary, and a page that is encoded in another way.
#[test]
fn texts_that_are_written_out_larger_than_there_is_room_for_are_left_to_duckdb() {
    let schema = parse_message_type("message m { required binary v; }").unwrap();
    let column = SchemaDescriptor::new(Arc::new(schema)).column(0);
    let text = ByteArray::from(vec![b'a'; 10_000]);
    let encoded = |encoding: Encoding, values: &[ByteArray]| {
        let mut encoder = get_encoder::<ByteArrayType>(encoding, &column).unwrap();
        encoder.put(values).unwrap();
        encoder.flush_buffer().unwrap()
    };
    let dictionary = Page::DictionaryPage {
        buf: encoded(Encoding::PLAIN, std::slice::from_ref(&text)),
        num_values: 1,
        encoding: Encoding::PLAIN,
        is_sorted: false,
    };
    let lengths = encoded(Encoding::DELTA_LENGTH_BYTE_ARRAY, &["b".into()]).to_vec();
    let decoded = |rows: u32| {
        let pages = [
            dictionary.clone(),
            codes(&vec![0; rows as usize - 1]),
            data(Encoding::DELTA_LENGTH_BYTE_ARRAY, 1, lengths.clone()),
        ];
        let cancel = CancellationToken::new();
        let limits = Limits { memory_bytes: 1 << 20, cancel: &cancel };
        let open = || -> Result<Box<dyn PageReader>, Refusal> { Ok(Box::new(ForgedPages::new(&pages))) };
        decode(&column, rows as usize, &open, &Room::new(&limits)).map(|chunk| chunk.len())
    };
    assert!(matches!(decoded(40), Ok(40)));
    match decoded(10_000) {
        Err(Refusal::Unsuited(why)) => assert!(why.contains("of values of one chunk"), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// The library asks for memory for all of them, whatever their page says of each.
#[test]
fn more_rows_than_there_is_room_for_are_not_decoded_at_all() {
    match decoded(i32::MAX as usize, &[]) {
        Err(Refusal::Unsuited(why)) => assert!(why.contains("of rows of one chunk"), "{why}"),
        other => panic!("{other:?}"),
    }
}
