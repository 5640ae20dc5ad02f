//! Requests and outcomes for the tests of this module.

use std::io::Write;
use std::num::NonZeroUsize;
use std::process::Command;

use super::{
    Compression, MergeInput, MergeLimits, MergeOptions, MergeOutcome, MergeRequest, MergedFile, ParquetVersion, Verify,
};

/// A request to merge files of these names, with limits that are easy to recognise.
pub(crate) fn request(names: &[&str]) -> MergeRequest {
    let input =
        |name: &&str| MergeInput { name: (*name).into(), path: format!("/inputs/{name}").into(), size_bytes: 7 };
    MergeRequest {
        job_id: "cpu_2025_10_08_14_1728409500_9f3a".into(),
        work_dir: "/job".into(),
        inputs: names.iter().map(input).collect(),
        output_stem: "cpu_20251008_14_g1_9f3a51c2b7d0".into(),
        generation: 1,
        options: MergeOptions {
            compression: Compression::Zstd(3),
            parquet_version: ParquetVersion::V2,
            row_group_size: NonZeroUsize::new(122_880).unwrap(),
            target_file_size_bytes: 512 << 20,
            sort_by: vec!["time".into()],
            time_column: "time".into(),
            verify: Verify::Content,
        },
        limits: MergeLimits {
            memory_bytes: 1 << 30,
            threads: NonZeroUsize::new(4).unwrap(),
            temp_bytes: None,
            means: super::Means::All,
        },
    }
}

/// The outcome of a merge that consumed everything.
pub(crate) fn outcome_of(request: &MergeRequest) -> MergeOutcome {
    let name = format!("{}_compacted.parquet", request.output_stem);
    MergeOutcome {
        outputs: vec![MergedFile {
            path: request.work_dir.join(&name),
            name,
            size_bytes: 10,
            rows: 3,
            min_time: None,
            max_time: None,
            checksum: "blake3:00".into(),
        }],
        consumed: request.inputs.iter().map(|input| input.name.clone()).collect(),
        set_aside: Vec::new(),
        rows: 3,
        fingerprint: None,
        slices: 1,
        peak_memory_bytes: 0,
        engine: "test".into(),
    }
}

/// Tells the process that measures from the one that asks.
const MEASURE: &str = "--skip=measured here";

/// Whether this process is one that measures.
pub(crate) fn is_measuring() -> bool {
    std::env::args().any(|argument| argument == MEASURE)
}

/// Runs `measure` in a process of its own, which runs the test `name` of `module` only; what it printed.
pub(crate) fn alone(module: &str, name: &str, measure: impl FnOnce() -> String) -> Option<String> {
    if is_measuring() {
        std::io::stdout().write_all(format!("measured: {}\n", measure()).as_bytes()).unwrap();
        return None;
    }
    let name = format!("{}::{name}", module.split_once("::").unwrap().1);
    let child =
        Command::new(std::env::current_exe().unwrap()).args([&name, "--exact", "--nocapture", MEASURE]).output();
    let text = String::from_utf8(child.unwrap().stdout).unwrap();
    let line = text.lines().find_map(|line| line.split_once("measured: ")).unwrap_or_else(|| panic!("{text}"));
    Some(line.1.to_owned())
}
