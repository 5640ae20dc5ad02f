//! One file and nothing else, through everything here that reads files without the engine's help. For fuzzing, and used by
//! nothing else: a merge takes its files together.

use std::num::NonZeroUsize;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::columnar::{self, Limits, Refusal, SourceFile};
use super::schema::group_all;
use super::slices::Range;
use super::survey::survey;
use super::{Compression, Means, MergeInput, MergeLimits, MergeOptions, ParquetVersion, Verify};

/// What was made of a file that the survey takes for sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alone {
    /// By its footer.
    pub rows: u64,
    /// What the decoder of columns finds wrong with it.
    pub damage: Option<String>,
    /// Rows that were written in order of time, if that could be done column by column, or why it was not.
    pub merged: Result<u64, String>,
}

/// Surveys and decodes a file, and merges it alone into the new file `out`. `memory_bytes` is for the values. `None`: set
/// aside before that. Blocks the thread.
///
/// # Panics
/// When something that is caught in a merge is not.
#[must_use]
pub fn merge_alone(path: &Path, out: &Path, memory_bytes: u64) -> Option<Alone> {
    let options = MergeOptions {
        compression: Compression::None,
        parquet_version: ParquetVersion::V2,
        row_group_size: NonZeroUsize::new(1000).expect("not zero"),
        target_file_size_bytes: 1 << 30,
        sort_by: vec!["time".to_owned()],
        time_column: "time".to_owned(),
        verify: Verify::Content,
    };
    let size_bytes = path.metadata().map_or(0, |file| file.len());
    let inputs = [MergeInput { name: "one".to_owned(), path: path.to_owned(), size_bytes }];
    let cancel = CancellationToken::new();
    let limits = MergeLimits { memory_bytes, threads: NonZeroUsize::MIN, temp_bytes: None, means: Means::All };
    let (surveyed, _) = survey(&inputs, &limits, &cancel, &|_| ()).ok()?;
    let rows = surveyed.first()?.rows;
    let (groups, _) = group_all(surveyed, &inputs, &options);
    let group = groups.first()?;
    if !columnar::suits(group) {
        return Some(Alone { rows, damage: None, merged: Err("not column by column".to_owned()) });
    }
    let class = group.classes.first().expect("a group has a file");
    let file = || SourceFile { path: path.to_owned(), size_bytes, projection: &class.projection };
    let damage = columnar::damage(file(), memory_bytes, &cancel).expect("nobody cancels");
    let limits = Limits { memory_bytes, cancel: &cancel };
    let merged = match columnar::merge_slice(group, &[file()], Range::Everything, &options, out, &limits) {
        Ok(rows) => Ok(rows),
        Err(Refusal::Unsuited(why) | Refusal::Damaged(why) | Refusal::DamagedFile(_, why)) => Err(why),
        Err(Refusal::Failed(error)) => Err(error.to_string()),
    };
    Some(Alone { rows, damage, merged })
}
