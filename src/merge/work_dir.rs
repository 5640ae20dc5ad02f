//! The folder of one merge: links to inputs with odd names, slices, spill, outputs.
//!
//! ```text
//! {work_dir}/in/000000.parquet -> the input's real path     where its name is not plain, for DuckDB never sees such names
//!           /slices/0.parquet                               gone once stitched
//!           /spill/                                         DuckDB's own
//!           /out/{stem}[_{part}]_compacted.parquet
//! ```
//!
//! Inputs with plain names are opened where they are. Links for all of them took half a second of the merge of 900 files: ext4
//! searches for a new inode among those that were deleted lately, and the merge before has deleted as many.
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
    /// `None`: there is no such file, which the survey says better.
    inputs: Vec<Option<Input>>,
}

#[derive(Debug)]
struct Input {
    /// Absolute, without links.
    real: String,
    /// Whether it is opened through a link.
    is_linked: bool,
}

impl WorkDir {
    /// Creates the sub-folders in `path`, which exists and is private to this merge.
    pub(super) fn prepare(path: &Path, inputs: &[MergeInput]) -> Result<Self, MergeError> {
        let root = fs::canonicalize(path).map_err(io_error("open", path))?;
        let text = utf8(&root)?.to_owned();
        let mut dir = Self { root, text, inputs: Vec::new() };
        for folder in ["in", "slices", "spill", "out"] {
            dir.fresh(folder)?;
        }
        for (index, input) in inputs.iter().enumerate() {
            let found = dir.find(index, input)?;
            dir.inputs.push(found);
        }
        Ok(dir)
    }

    fn find(&self, index: usize, input: &MergeInput) -> Result<Option<Input>, MergeError> {
        let Ok(path) = fs::canonicalize(&input.path) else { return Ok(None) };
        let real = utf8(&path)?.to_owned();
        let is_linked = !is_plain(&real);
        if is_linked {
            let link = PathBuf::from(self.link(index));
            symlink(&path, &link).map_err(io_error("create", &link))?;
        }
        Ok(Some(Input { real, is_linked }))
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

    /// The real paths of the inputs that exist.
    pub(super) fn real_inputs(&self) -> Vec<String> {
        self.inputs.iter().flatten().map(|input| input.real.clone()).collect()
    }

    /// Under which path an input is opened.
    pub(super) fn input(&self, index: usize) -> String {
        match self.inputs.get(index) {
            Some(Some(Input { real, is_linked: false })) => real.clone(),
            _ => self.link(index),
        }
    }

    fn link(&self, index: usize) -> String {
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

/// Whether a path means nothing but itself, to DuckDB too: no pattern, no folder that names a value, no scheme, no quote.
fn is_plain(path: &str) -> bool {
    path.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-' | b'.'))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_inputs_with_odd_names_are_opened_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let data = root.join("data");
        fs::create_dir(&data).unwrap();
        let names = ["a_1-b.parquet", "it's.parquet", "b*[x]?.parquet", "day=1.parquet", "é.parquet", "gone.parquet"];
        let inputs = names.map(|name| {
            let path = data.join(name);
            if name != "gone.parquet" {
                fs::write(&path, name).unwrap();
            }
            MergeInput { name: name.to_owned(), path, size_bytes: 1 }
        });
        let work = WorkDir::prepare(&root, &inputs).unwrap();
        for (index, name) in names[..5].iter().enumerate() {
            let opened = work.input(index);
            assert_eq!(fs::read_to_string(&opened).unwrap(), *name);
            assert_eq!(Path::new(&opened) == data.join(name), index == 0, "{opened}");
        }
        assert!(!Path::new(&work.input(5)).exists());
        assert_eq!(work.real_inputs().len(), 5);
        assert_eq!(fs::read_dir(root.join("in")).unwrap().count(), 4);
    }
}
