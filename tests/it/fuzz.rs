//! The fuzz targets over mutated seeds, in every test run: without libFuzzer's guidance, but always, and the same ones.
//!
//! `ARC_FUZZ_ROUNDS=100000 cargo test --release --test it fuzz::` runs longer; a failure names its round, and leaves the input
//! as a file that `cargo +nightly fuzz run --fuzz-dir fuzz TARGET FILE` takes. Neither time nor memory is limited here.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use fastrand::Rng;

use crate::fuzz_mutation::mutate;
use crate::fuzz_targets as targets;
use crate::support::again;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no seeds");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Numbers at which lengths and counts go wrong.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];

fn mutated(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = seeds[rng.usize(..seeds.len())].clone();
    for _ in 0..rng.usize(0..6) {
        let length = bytes.len();
        let at = rng.usize(..=length);
        let end = (at + rng.usize(0..16)).min(length);
        match rng.u8(..8) {
            0 if at < length => bytes[at] ^= 1 << rng.u8(..8),
            1 if at < length => bytes[at] = rng.u8(..),
            2 => drop(bytes.drain(at..end)),
            3 => drop(bytes.splice(at..at, (0..rng.usize(1..9)).map(|_| rng.u8(..)).collect::<Vec<_>>())),
            4 => bytes.truncate(at),
            5 => drop(bytes.splice(at..end, EDGES[rng.usize(..EDGES.len())].to_le_bytes())),
            6 => {
                let other = &seeds[rng.usize(..seeds.len())];
                let from = rng.usize(..=other.len());
                let piece = other[from..(from + rng.usize(0..64)).min(other.len())].to_vec();
                drop(bytes.splice(at..end, piece));
            }
            _ => {
                let again = bytes[at..end].repeat(rng.usize(1..40));
                drop(bytes.splice(at..at, again));
            }
        }
    }
    bytes
}

fn mutated_file(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    const MOST_BYTES: usize = 1 << 16;
    let mut bytes = seeds[rng.usize(..seeds.len())].clone();
    for _ in 0..rng.usize(1..5) {
        let mut bytewise_rng = rng.fork();
        mutate(&mut bytes, MOST_BYTES, rng, &mut |piece, most| {
            *piece = mutated(std::slice::from_ref(piece), &mut bytewise_rng);
            piece.truncate(most);
        });
    }
    bytes
}

fn run(target: &str, rounds: u64, body: fn(&[u8])) {
    run_mutated(target, rounds, mutated, body);
}

fn run_mutated(target: &str, rounds: u64, mutated: fn(&[Vec<u8>], &mut Rng) -> Vec<u8>, body: fn(&[u8])) {
    let rounds = again::asked_number("ARC_FUZZ_ROUNDS").unwrap_or(rounds);
    let seeds = seeds(target);
    for round in again::each(0..rounds, u64::to_string) {
        let number = usize::try_from(round).unwrap();
        // The seeds themselves first.
        let input = seeds.get(number).cloned().unwrap_or_else(|| mutated(&seeds, &mut Rng::with_seed(round)));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(&input))) {
            let file = std::env::temp_dir().join(format!("arc-fuzz-{target}-{round}"));
            fs::write(&file, &input).unwrap();
            let file = file.display();
            println!("round {round}: `cargo +nightly fuzz run --fuzz-dir fuzz {target} {file}` takes this input, too");
            resume_unwind(panic);
        }
    }
}

#[test]
fn no_footer_brings_the_survey_down() {
    run("survey", 5_000, targets::survey);
}

#[test]
fn no_file_brings_the_decoder_of_columns_down_or_is_merged_to_fewer_or_more_rows() {
    run_mutated("file", 2_000, mutated_file, targets::file);
}

/// So that mutations get beyond the footer.
#[test]
fn the_files_that_are_mutated_are_merged_as_they_are_whatever_their_codec_and_pages() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/file");
    for name in [
        "delta_encodings",
        "dictionary_given_up",
        "gzip",
        "gzip_version_2",
        "lz4",
        "lz4_raw_version_2",
        "narrow_types_without_statistics",
        "plain",
        "row_groups_and_pages",
        "snappy",
        "zstd_version_2",
    ] {
        let alone = arc::merge::merge_alone(&folder.join(name), &dir.path().join(name), 1 << 20);
        let alone = alone.unwrap_or_else(|| panic!("{name} is set aside"));
        assert_eq!((alone.damage, alone.merged), (None, Ok(alone.rows)), "{name}");
    }
}

#[test]
fn mutated_files_get_beyond_the_footer_and_many_to_the_end() {
    const ROUNDS: u64 = 400;
    let seeds = seeds("file");
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("in"), dir.path().join("out"));
    let (mut decoded, mut damaged, mut merged) = (0, 0, 0);
    for round in 0..ROUNDS {
        fs::write(&path, mutated_file(&seeds, &mut Rng::with_seed(round))).unwrap();
        let Some(alone) = arc::merge::merge_alone(&path, &out, 1 << 20) else { continue };
        decoded += 1;
        damaged += u64::from(alone.damage.is_some());
        merged += u64::from(alone.merged.is_ok());
        drop(fs::remove_file(&out));
    }
    println!("of {ROUNDS}: {decoded} decoded, {damaged} of them damaged, {merged} merged");
    assert!(decoded > ROUNDS / 4 && damaged > ROUNDS / 20 && merged > ROUNDS / 20);
}

#[test]
fn no_page_header_leads_out_of_its_chunk() {
    run("pages", 50_000, targets::pages);
}

/// T16.
#[test]
fn no_bytes_bring_the_record_parser_down_or_name_a_file_elsewhere() {
    run("record", 20_000, targets::record);
}

/// T8, T56.
#[test]
fn no_text_is_read_as_a_path_that_is_written_differently() {
    run("path", 50_000, targets::path);
}

/// T60.
#[test]
fn no_configuration_file_is_anything_but_settings_or_problems() {
    run("configuration", 3_000, targets::configuration);
}
