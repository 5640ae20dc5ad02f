//! The folder of one merge: links to the inputs under names of our own, slices, spill, outputs.
//!
//! ```text
//! {work_dir}/in/000000.parquet -> the input's real path     names in it may be anything; DuckDB never sees them
//!           /slices/0.parquet                               gone once stitched
//!           /spill/                                         DuckDB's own
//!           /out/{stem}[_{part}]_compacted.parquet
//! ```
//!
//! Nothing is cleaned up here at the end: the folder belongs to the caller.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::session::utf8;
use super::{MergeError, MergeInput};

/// See the module documentation.
#[derive(Debug)]
pub(super) struct WorkDir {
    root: PathBuf,
    text: String,
}

impl WorkDir {
    /// Creates the sub-folders in `path`, which exists and is private to this merge.
    pub(super) fn prepare(path: &Path) -> Result<Self, MergeError> {
        let root = fs::canonicalize(path).map_err(io_error("open", path))?;
        let text = utf8(&root)?.to_owned();
        let dir = Self { root, text };
        for folder in ["in", "slices", "spill", "out"] {
            dir.fresh(folder)?;
        }
        Ok(dir)
    }

    /// Absolute, without links.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Removes what an attempt that is to be repeated has written.
    pub(super) fn restart(&self) -> Result<(), MergeError> {
        self.fresh("slices")?;
        self.fresh("out")
    }

    /// Makes input `index` visible under [`Self::input`]; its real path. `None`: there is no such file, which the survey
    /// says better.
    pub(super) fn link(&self, index: usize, input: &MergeInput) -> Result<Option<String>, MergeError> {
        let Ok(real) = fs::canonicalize(&input.path) else { return Ok(None) };
        let link = PathBuf::from(self.input(index));
        symlink(&real, &link).map_err(io_error("create", &link))?;
        Ok(Some(utf8(&real)?.to_owned()))
    }

    pub(super) fn input(&self, index: usize) -> String {
        format!("{}/in/{index:06}.parquet", self.text)
    }

    pub(super) fn slice(&self, number: usize) -> String {
        format!("{}/slices/{number}.parquet", self.text)
    }

    /// For something that is tried out and then removed.
    pub(super) fn trial(&self) -> String {
        format!("{}/slices/trial.parquet", self.text)
    }

    pub(super) fn output(&self, name: &str) -> PathBuf {
        self.root.join("out").join(name)
    }

    fn fresh(&self, folder: &str) -> Result<(), MergeError> {
        let path = self.root.join(folder);
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io_error("delete", &path)(e)),
            _ => {}
        }
        fs::create_dir(&path).map_err(io_error("create", &path))
    }
}

/// Deletes a slice that is not needed any more.
pub(super) fn remove_slice(path: &Path) -> Result<(), MergeError> {
    fs::remove_file(path).map_err(io_error("delete", path))
}

/// Turns a system error into one that says what was done to which path.
pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MergeError {
    let path = path.to_owned();
    move |source| MergeError::Io { action, path, source }
}
