#![no_main]

mod panics;
#[path = "../../tests/it/fuzz_targets.rs"]
#[allow(dead_code, reason = "each binary runs one of the targets")]
mod targets;

libfuzzer_sys::fuzz_target!(init: panics::may_be_caught(), |bytes: &[u8]| panics::end_here(|| targets::survey(bytes)));
