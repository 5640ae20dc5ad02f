#![no_main]

#[path = "../../tests/it/fuzz_mutation.rs"]
mod mutation;
mod panics;
#[path = "../../tests/it/fuzz_targets.rs"]
#[allow(dead_code, reason = "each binary runs one of the targets")]
mod targets;

use libfuzzer_sys::fuzzer_mutate;

libfuzzer_sys::fuzz_target!(init: panics::may_be_caught(), |bytes: &[u8]| panics::end_here(|| targets::file(bytes)));

libfuzzer_sys::fuzz_mutator!(|bytes: &mut [u8], size: usize, most: usize, seed: u32| {
    let mut file = bytes[..size].to_vec();
    let mut rng = fastrand::Rng::with_seed(seed.into());
    mutation::mutate(&mut file, most, &mut rng, &mut |piece, most| {
        let length = piece.len();
        piece.resize(most.max(length), 0);
        if most > 0 {
            let changed = fuzzer_mutate(piece, length.min(most), most);
            piece.truncate(changed);
        }
    });
    bytes[..file.len()].copy_from_slice(&file);
    file.len()
});
