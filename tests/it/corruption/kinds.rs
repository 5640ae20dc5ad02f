//! Kinds of damage, and what may become of a file that has it. The same seed gives the same file.

use fastrand::Rng;

use super::pages::{Anatomy, varint};
use super::{lies, thrift};

/// What may become of a damaged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nobody can take it for a sound file: it is named, and stays.
    Named,
    /// It may be readable still, perhaps with other values. Then its rows, as they are read, are the truth about it and are
    /// kept; otherwise it is named, and stays.
    NamedOrRead,
}

/// Damages a sound file, the `n`-th time.
type Damage = fn(&Anatomy, &mut Rng, usize) -> Vec<u8>;

#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub fate: Fate,
    pub damage: Damage,
}

const fn named(name: &'static str, damage: Damage) -> Kind {
    Kind { name, fate: Fate::Named, damage }
}

const fn maybe(name: &'static str, damage: Damage) -> Kind {
    Kind { name, fate: Fate::NamedOrRead, damage }
}

/// Made apart from the others, because there are so many boundaries.
pub const CUT_AT_A_BOUNDARY: Kind = named("cut_at_a_boundary", |file, _, _| file.bytes.clone());

pub const KINDS: [Kind; 36] = [
    named("cut_anywhere", |file, rng, _| file.bytes[..rng.usize(..file.bytes.len())].to_vec()),
    maybe("head_missing", |file, rng, n| {
        let boundaries = file.boundaries();
        let cut = if n % 2 == 0 { boundaries[rng.usize(1..boundaries.len())] } else { rng.usize(1..file.bytes.len()) };
        file.bytes[cut..].to_vec()
    }),
    maybe("header_magic_flipped", |file, rng, n| flipped(file, n % 4, rng)),
    maybe("page_data_flipped", |file, rng, _| {
        let page = &file.pages[rng.usize(..file.pages.len())];
        let at = rng.usize(page.data.clone());
        flipped(file, at, rng)
    }),
    maybe("page_header_flipped", |file, rng, _| {
        let page = &file.pages[rng.usize(..file.pages.len())];
        let at = rng.usize(page.header.clone());
        flipped(file, at, rng)
    }),
    maybe("footer_flipped", |file, rng, _| {
        let at = rng.usize(file.footer.clone());
        flipped(file, at, rng)
    }),
    named("footer_length_flipped", |file, rng, n| flipped(file, file.footer.end + n % 4, rng)),
    named("last_magic_flipped", |file, rng, n| flipped(file, file.footer.end + 4 + n % 4, rng)),
    maybe("bit_flipped", |file, rng, _| {
        let mut bytes = file.bytes.clone();
        bytes[rng.usize(..file.bytes.len())] ^= 1 << rng.u8(..8);
        bytes
    }),
    maybe("zeroed", |file, rng, _| overwritten(file, rng, |_| 0)),
    maybe("garbage", |file, rng, _| overwritten(file, rng, |rng| rng.u8(..))),
    maybe("bytes_missing", |file, rng, _| {
        let mut bytes = file.bytes.clone();
        let from = rng.usize(4..file.footer.start - 1);
        bytes.drain(from..(from + rng.usize(1..200)).min(file.footer.start));
        bytes
    }),
    maybe("bytes_twice", |file, rng, _| {
        let from = rng.usize(4..file.footer.start - 1);
        let to = (from + rng.usize(1..200)).min(file.footer.start);
        [&file.bytes[..to], &file.bytes[from..]].concat()
    }),
    named("footer_garbage", |file, rng, _| {
        let mut bytes = file.bytes.clone();
        bytes[file.footer.clone()].fill_with(|| rng.u8(..));
        bytes
    }),
    named("footer_length_wrong", |file, rng, n| {
        let right = u32::try_from(file.footer.len()).unwrap();
        let wrong = [0, 1, right - 1, right + 1, right / 2, right * 2, 1 << 31, u32::MAX, rng.u32(right + 2..)][n % 9];
        let mut bytes = file.bytes.clone();
        bytes[file.footer.end..][..4].copy_from_slice(&wrong.to_le_bytes());
        bytes
    }),
    maybe("lying_rows", |file, rng, _| lies::about_rows(file, rng)),
    named("footer_states_fewer_rows", |file, rng, _| lies::about_fewer_rows(file, rng)),
    named("fewer_rows_at_no_offset", |file, rng, _| lies::about_fewer_rows_at_no_offset(file, rng)),
    named("footer_states_more_rows", |file, rng, _| lies::about_more_rows(file, rng)),
    named("lying_values", |file, rng, _| lies::about_values(file, rng)),
    maybe("lying_offsets", |file, rng, _| lies::about_offsets(file, rng)),
    maybe("lying_sizes", |file, rng, _| lies::about_sizes(file, rng)),
    maybe("lying_codecs", |file, rng, _| lies::about_codecs(file, rng)),
    maybe("lying_statistics", |file, rng, _| lies::about_statistics(file, rng)),
    maybe("lying_types", |file, rng, _| lies::about_types(file, rng)),
    maybe("lying_nulls", |file, rng, _| lies::about_nulls(file, rng)),
    named("duplicate_columns", |file, rng, _| lies::about_names(file, rng)),
    maybe("bomb_page_claims", |file, rng, _| page_that_claims(file, rng, 2)),
    maybe("page_size_claims", |file, rng, _| page_that_claims(file, rng, 3)),
    maybe("huge_dictionary", huge_dictionary),
    named("deep_nesting", |_, rng, n| {
        thrift::file_of(&thrift::footer_nested([101, 300, 5000, 100_000, rng.u32(200..50_000)][n % 5]))
    }),
    named("endless_lists", |_, rng, n| {
        let count = if n % 2 == 0 { i32::MAX.unsigned_abs() } else { rng.u32(1 << 20..1 << 31) };
        thrift::file_of(&thrift::footer_with_a_list_of([2, 4, 5, 7][n / 2 % 4], count))
    }),
    named("encrypted", |file, rng, n| {
        let mut bytes = file.bytes.clone();
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(b"PARE");
        if n % 2 == 0 {
            bytes[..4].copy_from_slice(b"PARE");
            bytes[file.footer.clone()].fill_with(|| rng.u8(..));
        }
        bytes
    }),
    named("other_magic", |file, rng, n| {
        let magic = [*b"PAR2", *b"RAP1", *b"ORC\x04", *b"Obj\x01", *b"\0\0\0\0", rng.u32(..).to_le_bytes()][n % 6];
        let mut bytes = file.bytes.clone();
        let end = bytes.len();
        bytes[..4].copy_from_slice(&magic);
        bytes[end - 4..].copy_from_slice(&magic);
        bytes
    }),
    named("other_format", |_, rng, n| match n % 6 {
        0 => b"time,host\n2025-10-08 14:00:00,a\n".repeat(rng.usize(1..50)),
        1 => br#"{"time":"2025-10-08T14:00:00Z","host":"a"}"#.repeat(rng.usize(1..50)),
        2 => [b"SQLite format 3\0".to_vec(), vec![0; 4096]].concat(),
        3 => [vec![0x1f, 0x8b, 8, 0], (0..500).map(|_| rng.u8(..)).collect()].concat(),
        4 => vec![0; rng.usize(..5000)],
        _ => [b"PAR1".to_vec(), (0..rng.usize(..3000)).map(|_| rng.u8(..)).collect(), b"PAR1".to_vec()].concat(),
    }),
    maybe("two_files_in_one", |file, rng, _| {
        let other = &file.bytes[..rng.usize(..file.bytes.len())];
        if rng.bool() { [other, &file.bytes[..]].concat() } else { [&file.bytes[..], other].concat() }
    }),
];

fn flipped(file: &Anatomy, at: usize, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = file.bytes.clone();
    bytes[at] ^= rng.u8(1..);
    bytes
}

/// A stretch of the pages, or across their borders.
fn overwritten(file: &Anatomy, rng: &mut Rng, with: fn(&mut Rng) -> u8) -> Vec<u8> {
    let mut bytes = file.bytes.clone();
    let from = rng.usize(4..file.footer.start - 1);
    let to = (from + rng.usize(1..400)).min(file.footer.start);
    bytes[from..to].fill_with(|| with(rng));
    bytes
}

/// A page whose header claims another size of its data: before (2) or after (3) compression. Everything behind it keeps its
/// place, because a number may be written with more bytes than it needs.
fn page_that_claims(file: &Anatomy, rng: &mut Rng, number: usize) -> Vec<u8> {
    let mut bytes = file.bytes.clone();
    let page = &file.pages[rng.usize(..file.pages.len())];
    // Type, size before and size after compression come first, each behind a byte that says so.
    let mut at = page.header.start;
    let mut span = at..at;
    for _ in 0..number {
        at += 1;
        let from = at;
        varint(&file.bytes, &mut at);
        span = from..at;
    }
    let wrong = match rng.u8(..4) {
        // As much as fits into the place of the right one.
        0 => vec![0xff; span.len() - 1].into_iter().chain([0x7e]).collect::<Vec<u8>>(),
        1 => thrift::zigzag(i32::MAX.into()),
        2 => thrift::zigzag(rng.i64(1 << 20..1 << 31)),
        _ => thrift::zigzag(-1),
    };
    bytes.splice(span, wrong);
    if bytes.len() == file.bytes.len() {
        return bytes;
    }
    // The header is longer now: the page's data gives way, so that all offsets stay right.
    let longer = bytes.len() - file.bytes.len();
    let header_end = page.header.end + longer;
    let taken = longer.min(page.data.len());
    bytes.drain(header_end..header_end + taken);
    bytes
}

/// A dictionary that is much larger than it says, or data pages that point far beyond it.
fn huge_dictionary(file: &Anatomy, rng: &mut Rng, n: usize) -> Vec<u8> {
    let mut bytes = file.bytes.clone();
    let page = &file.pages[rng.usize(..file.pages.len())];
    if n.is_multiple_of(2) {
        // The first byte of dictionary indices is their width: 32 bits, or more than there can be.
        bytes[page.data.start] = [32, 31, 33, 255][rng.usize(..4)];
    } else {
        // The number of values stands behind the sizes, in a structure of its own.
        let at = page.header.end.saturating_sub(rng.usize(2..8)).max(page.header.start);
        bytes[at..page.header.end].fill(0xff);
        bytes[page.header.end - 1] = 0x07;
    }
    bytes
}
