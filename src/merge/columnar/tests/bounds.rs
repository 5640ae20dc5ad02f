//! What a merge holds at once: memory, open files, pages.

use super::*;
use crate::merge::columnar::files::SliceFiles;
use crate::merge::columnar::room::Room;
use crate::merge::resources::ProcessMemory;
use crate::merge::testing::alone;

const MIB: u64 = 1 << 20;

/// The group's only class, as a slice of all files, each said to be of `size_bytes`.
fn sources<'a>(inputs: &Inputs, group: &'a SchemaGroup, size_bytes: u64) -> Vec<SourceFile<'a>> {
    let [class] = &group.classes[..] else { panic!("{} classes", group.classes.len()) };
    let path = |input: usize| inputs.inputs[input].path.clone();
    class
        .files
        .iter()
        .map(|file| SourceFile { path: path(file.input), size_bytes, projection: &class.projection })
        .collect()
}

/// Whether the slice is merged within this memory.
fn fits(inputs: &Inputs, group: &SchemaGroup, size_bytes: u64, memory_bytes: u64) -> bool {
    let limits = Limits { memory_bytes, cancel: &CancellationToken::new() };
    let out = inputs.path(&format!("slice-{}.parquet", fastrand::u64(..)));
    match merge_slice(group, &sources(inputs, group, size_bytes), Range::Everything, &options(20_000), &out, &limits) {
        Ok(_) => true,
        Err(Refusal::Unsuited(_)) => false,
        Err(error) => panic!("{error:?}"),
    }
}

/// By how much this process grew at most while it merged the slice.
fn grown(inputs: &Inputs, group: &SchemaGroup, size_bytes: u64) -> u64 {
    let before = ProcessMemory::of_this_process().unwrap();
    let limits = Limits { memory_bytes: 1 << 30, cancel: &CancellationToken::new() };
    let files = sources(inputs, group, size_bytes);
    merge_slice(group, &files, Range::Everything, &options(20_000), &inputs.path("measured"), &limits).unwrap();
    ProcessMemory::of_this_process().unwrap().peak_bytes.saturating_sub(before.resident_bytes)
}

/// Files that overlap, of `columns` columns of numbers beside the time.
fn overlapping(files: i64, rows: usize, columns: usize) -> Inputs {
    let mut inputs = Inputs::new();
    for file in 0..files {
        let mut random = fastrand::Rng::with_seed(file.unsigned_abs());
        let time: Int64Array = (0..i64::try_from(rows).unwrap()).map(|i| i * files + file).collect();
        let mut all: Vec<(String, ArrayRef)> = vec![("time".to_owned(), Arc::new(time))];
        for column in 0..columns {
            let values = (0..rows).map(|_| random.f64());
            all.push((
                format!("a column with a name of some length {column}"),
                Arc::new(Float64Array::from_iter_values(values)),
            ));
        }
        let all: Vec<(&str, ArrayRef)> = all.iter().map(|(name, array)| (name.as_str(), Arc::clone(array))).collect();
        inputs.columns(&all);
    }
    inputs
}

/// What the allocator keeps, the decoder of one page, the codec, one footer while it is decoded.
const SLACK: u64 = 12 * MIB;

/// By how much the process grew, and whether the slice is refused with less memory than that, and merged with twice as much.
fn measure(files: i64, rows: usize, columns: usize, size_bytes: u64) -> String {
    let inputs = overlapping(files, rows, columns);
    let (groups, _) = inputs.groups();
    let grown = grown(&inputs, &groups[0], size_bytes);
    let less = fits(&inputs, &groups[0], size_bytes, grown.saturating_sub(SLACK) * 4 / 5);
    let twice = fits(&inputs, &groups[0], size_bytes, grown * 2 + SLACK);
    format!("{grown} {less} {twice}")
}

/// Twenty thousand column chunks: as much as a kilobyte for each, if footers were kept as they are decoded.
#[test]
fn a_slice_of_many_wide_files_takes_little_memory_for_footers() {
    let measure = || measure(100, 2, 200, WHOLE_FILES_BYTES);
    let Some(text) = alone(module_path!(), "a_slice_of_many_wide_files_takes_little_memory_for_footers", measure)
    else {
        return;
    };
    let (grown, fits) = text.split_once(' ').unwrap();
    assert!(grown.parse::<u64>().unwrap() < SLACK, "grew by {grown} bytes");
    assert!(fits.ends_with("true"), "{text}");
}

#[test]
fn a_slice_is_merged_within_about_the_memory_that_it_counts_and_not_within_less() {
    let measure = || measure(8, 100_000, 3, 2_400_000);
    let name = "a_slice_is_merged_within_about_the_memory_that_it_counts_and_not_within_less";
    let Some(text) = alone(module_path!(), name, measure) else { return };
    assert!(text.ends_with(" false true"), "{text}");
}

#[test]
fn more_files_are_merged_than_may_be_open() {
    let measure = || {
        let inputs = overlapping(100, 3, 2);
        let (groups, _) = inputs.groups();
        let few = rustix::process::Rlimit { current: Some(40), maximum: Some(40) };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
        let limits = Limits { memory_bytes: 1 << 30, cancel: &CancellationToken::new() };
        let files = sources(&inputs, &groups[0], WHOLE_FILES_BYTES);
        let merged = merge_slice(&groups[0], &files, Range::Everything, &options(100), &inputs.path("out"), &limits);
        format!("{merged:?}")
    };
    if let Some(text) = alone(module_path!(), "more_files_are_merged_than_may_be_open", measure) {
        assert_eq!(text, "Ok(300)");
    }
}

#[test]
fn pages_of_long_values_stay_small() {
    let mut inputs = Inputs::new();
    let long = |i: usize| format!("{i:09}").repeat(250_000);
    let text: ArrayRef = Arc::new(StringArray::from_iter_values((0..8).map(long)));
    inputs.columns(&[("time", times(0, 8)), ("text", text)]);
    inputs.columns(&[("time", times(8, 1)), ("text", Arc::new(StringArray::from(vec!["short"])))]);
    let (_, out) = merge_all(&inputs, Range::Everything, &options(100)).unwrap();
    let reader = SerializedFileReader::new(File::open(&out).unwrap()).unwrap();
    let mut pages = reader.get_row_group(0).unwrap().get_column_page_reader(1).unwrap();
    let sizes: Vec<usize> =
        std::iter::from_fn(|| pages.get_next_page().unwrap()).map(|page| page.buffer().len()).collect();
    assert!(sizes.len() >= 4 && sizes.iter().all(|&size| size < 8_000_000), "{sizes:?}");
    assert_same(&read(&out), &expected(&inputs));
}

#[test]
fn a_merge_that_is_no_longer_wanted_opens_no_file() {
    let inputs = overlapping(2, 3, 1);
    let (groups, _) = inputs.groups();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let limits = Limits { memory_bytes: 1 << 30, cancel: &cancel };
    let mut files = sources(&inputs, &groups[0], 10);
    for file in &mut files {
        file.path = "/does/not/exist".into();
    }
    let opened = SliceFiles::open(&files, groups[0].time, &Room::new(&limits)).err().unwrap();
    assert!(matches!(opened, Refusal::Failed(MergeError::Cancelled)), "{opened:?}");
    let found = damage(files.remove(0), u64::MAX, &cancel);
    assert!(matches!(found, Err(MergeError::Cancelled)), "{found:?}");
}
