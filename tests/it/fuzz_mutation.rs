//! Mutations of a Parquet file that mostly leave it one, so that what is behind the footer is reached, too.
//!
//! A byte changed anywhere makes a footer unreadable more often than it changes what it says. Here the footer keeps its
//! stated length, and numbers in it and in the headers of pages are replaced by others as numbers. Beside that, bytes are
//! changed as ever: by libFuzzer in `fuzz/`, by `fuzz.rs` in the test runs.

use std::ops::Range;

use fastrand::Rng;

/// Numbers at which lengths and counts go wrong.
const EDGES: [i64; 10] = [0, 1, -1, 4, 0x7f, 0xffff, i32::MAX as i64, i32::MIN as i64, i64::MAX, i64::MIN];

const MAGIC: &[u8; 4] = b"PAR1";

/// Changes some bytes, not to more than this many.
pub type Bytewise<'a> = dyn FnMut(&mut Vec<u8>, usize) + 'a;

/// Changes a file in one way, not to more than `most` bytes.
pub fn mutate(file: &mut Vec<u8>, most: usize, rng: &mut Rng, bytewise: &mut Bytewise<'_>) {
    let Some(footer) = footer(file) else { return bytewise(file, most) };
    let pages = pages(&file[..footer.start]);
    let page = (!pages.is_empty()).then(|| pages[rng.usize(..pages.len())].clone());
    match (rng.u8(..8), page) {
        (0, _) => return bytewise(file, most),
        (1, _) => replace(file, footer, most, |piece, most| bytewise(piece, most)),
        (2 | 3, Some(page)) => {
            let length = page.header.len();
            replace(file, page.header, most, |header, _| {
                change_number(header, rng);
                if header.len() > length && rng.bool() {
                    header.truncate(length);
                }
            });
        }
        (4, Some(page)) => {
            let length = page.data.len();
            replace(file, page.data, most, |data, most| {
                bytewise(data, most);
                data.resize(length, 0);
            });
        }
        _ => replace(file, footer, most, |footer, _| change_number(footer, rng)),
    }
    if file.len() > most {
        file.truncate(most);
    }
}

/// Where the footer lies, if the file's end says so.
fn footer(file: &[u8]) -> Option<Range<usize>> {
    let end = file.len().checked_sub(8)?;
    let length = u32::from_le_bytes(file[end..end + 4].try_into().expect("four bytes"));
    let start = end.checked_sub(usize::try_from(length).ok()?)?;
    (file[end + 4..] == *MAGIC && start >= MAGIC.len()).then_some(start..end)
}

/// Replaces a piece of the file, and states the footer's length anew.
fn replace(file: &mut Vec<u8>, piece: Range<usize>, most: usize, change: impl FnOnce(&mut Vec<u8>, usize)) {
    let whole_footer = footer(file).expect("there was one before");
    let mut changed = file[piece.clone()].to_vec();
    change(&mut changed, most.saturating_sub(file.len() - piece.len()));
    let footer = if piece == whole_footer { changed.len() } else { whole_footer.len() };
    file.splice(piece, changed);
    let end = file.len() - 8;
    file[end..end + 4].copy_from_slice(&u32::try_from(footer).expect("inputs are small").to_le_bytes());
}

#[derive(Clone)]
struct Page {
    header: Range<usize>,
    data: Range<usize>,
}

/// The pages from the file's beginning on, for as long as one follows the other.
fn pages(body: &[u8]) -> Vec<Page> {
    let mut pages = Vec::new();
    let mut at = MAGIC.len();
    while at < body.len() {
        let mut numbers = Vec::new();
        let Some(data) = walk_struct(body, at, &mut numbers, 0) else { break };
        // Type, size before compression, size after.
        let Some(stored) = numbers.get(2).and_then(|range| usize::try_from(number(&body[range.clone()])).ok()) else {
            break;
        };
        let Some(end) = data.checked_add(stored).filter(|&end| end <= body.len()) else { break };
        pages.push(Page { header: at..data, data: data..end });
        at = end;
    }
    pages
}

/// Replaces a number in a structure of Thrift's compact protocol by another.
fn change_number(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let mut numbers = Vec::new();
    walk_struct(bytes, 0, &mut numbers, 0);
    if numbers.is_empty() {
        return;
    }
    let at = numbers[rng.usize(..numbers.len())].clone();
    let old = number(&bytes[at.clone()]);
    let new = match rng.u8(..6) {
        0 => EDGES[rng.usize(..EDGES.len())],
        1 => old.wrapping_add(rng.i64(-2..=2)),
        2 => old.wrapping_mul(2),
        3 => rng.i64(0..20),
        4 => rng.i64(0..2000),
        _ => number(&bytes[numbers[rng.usize(..numbers.len())].clone()]),
    };
    bytes.splice(at, zigzag(new));
}

fn zigzag(value: i64) -> Vec<u8> {
    let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let mut bytes = Vec::new();
    while left >= 0x80 {
        bytes.push(left.to_le_bytes()[0] | 0x80);
        left >>= 7;
    }
    bytes.push(left.to_le_bytes()[0]);
    bytes
}

fn number(bytes: &[u8]) -> i64 {
    let raw = varint(bytes, 0).map_or(0, |(raw, _)| raw);
    (raw >> 1).cast_signed() ^ -(raw & 1).cast_signed()
}

/// The number that begins here, and where it ends.
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0;
    for (length, &byte) in bytes.get(at..)?.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * length);
        if byte < 0x80 {
            return Some((value, at + length + 1));
        }
    }
    None
}

/// Where the structure that begins here ends; the numbers in it are added, as far as it could be understood.
fn walk_struct(bytes: &[u8], mut at: usize, numbers: &mut Vec<Range<usize>>, depth: usize) -> Option<usize> {
    loop {
        let header = *bytes.get(at)?;
        at += 1;
        let (delta, kind) = (header >> 4, header & 0x0f);
        if kind == 0 {
            return Some(at);
        }
        if delta == 0 {
            at = varint(bytes, at)?.1;
        }
        at = walk(bytes, at, kind, numbers, depth)?;
    }
}

fn walk(bytes: &[u8], at: usize, kind: u8, numbers: &mut Vec<Range<usize>>, depth: usize) -> Option<usize> {
    const DEEPEST: usize = 32;
    match kind {
        _ if depth > DEEPEST => None,
        1 | 2 => Some(at),
        3 => Some(at + 1),
        4..=6 => {
            let end = varint(bytes, at)?.1;
            numbers.push(at..end);
            Some(end)
        }
        7 => Some(at + 8),
        8 => {
            let (length, start) = varint(bytes, at)?;
            start.checked_add(usize::try_from(length).ok()?).filter(|&end| end <= bytes.len())
        }
        9 | 10 => {
            let header = *bytes.get(at)?;
            let (count, mut at) = if header >> 4 == 15 { varint(bytes, at + 1)? } else { (header.into(), at + 1) };
            let count = if header >> 4 == 15 { count } else { count >> 4 };
            for _ in 0..count {
                // In a list, a truth value takes a byte.
                at = if matches!(header & 0x0f, 1 | 2) {
                    at + 1
                } else {
                    walk(bytes, at, header & 0x0f, numbers, depth + 1)?
                };
                if at > bytes.len() {
                    return None;
                }
            }
            Some(at)
        }
        12 => walk_struct(bytes, at, numbers, depth + 1),
        _ => None,
    }
}

#[test]
fn a_mutated_file_mostly_keeps_a_footer_of_its_stated_length() {
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/file/snappy")).unwrap();
    assert!(pages(&file[..footer(&file).unwrap().start]).len() >= 6, "three columns, each with a dictionary");
    let (mut kept, mut other) = (0, 0);
    for seed in 0..1000 {
        let mut mutated = file.clone();
        mutate(&mut mutated, 4096, &mut Rng::with_seed(seed), &mut |bytes, _| bytes.truncate(bytes.len() / 2));
        let readable = footer(&mutated).is_some_and(|at| arc::merge::footer_guard::check(&mutated[at]).is_ok());
        if readable { kept += 1 } else { other += 1 }
    }
    assert!(kept > 500 && other > 100, "{kept} of a thousand");
}
