//! Folders that belong to one attempt of one process, and are known to be abandoned when that process is gone.
//!
//! ```text
//! {root}/.arc-lock            held for the moment in which a folder is created or abandoned ones are looked for
//! {root}/{id}.arc-owner       exists before the folder and until after it; locked by its owner while the owner lives
//! {root}/{id}/                the folder
//! ```
//!
//! The operating system gives up a process's file locks when the process ends, however it ends. So a lock that can be
//! taken is proof that its owner is gone, and one that cannot is proof that it lives: no ages, no process numbers, and
//! no difference between other processes and other folders of this one.
//!
//! What must hold: [`OwnedDir::sweep`] removes exactly the folders whose owner file says so, by their whole name. A
//! folder without an owner file is somebody else's and is never touched, so a root shared with others is no danger. The
//! owner file is the first thing made and the last removed, so a crash at any point leaves something that a later sweep
//! finishes.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::StorageError;
use crate::partition::is_plain_file_name;

const ROOT_LOCK: &str = ".arc-lock";
const OWNER_SUFFIX: &str = ".arc-owner";

/// A folder that is removed when this value goes, or by [`OwnedDir::sweep`] after the process has gone.
///
/// All methods block for the time of a few file operations.
#[derive(Debug)]
pub struct OwnedDir {
    path: PathBuf,
    owner_path: PathBuf,
    /// Holds the lock. `None` after removal.
    owner: Option<File>,
}

impl OwnedDir {
    /// Creates `{root}/{id}`, empty and owned. `root` is created when it is missing.
    ///
    /// # Errors
    /// When `id` is not a plain file name, when a folder of this name exists (owned or not), or when the file system
    /// refuses.
    pub fn create(root: &Path, id: &str) -> Result<Self, StorageError> {
        if !is_plain_file_name(id) {
            return Err(StorageError::InvalidName { name: id.to_owned(), detail: "not a plain file name".to_owned() });
        }
        std::fs::create_dir_all(root).map_err(at(root))?;
        // A sweep between the next two steps would find an owner file that nobody has locked.
        let _root_lock = lock_root(root)?;
        let owner_path = root.join(format!("{id}{OWNER_SUFFIX}"));
        let owner = OpenOptions::new().write(true).create_new(true).open(&owner_path).map_err(at(&owner_path))?;
        owner.lock().map_err(at(&owner_path))?;
        let path = root.join(id);
        if let Err(error) = std::fs::create_dir(&path) {
            // Only the owner file is ours: what stands in the way is not.
            let _ = std::fs::remove_file(&owner_path);
            return Err(at(&path)(error));
        }
        Ok(Self { path, owner_path, owner: Some(owner) })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the folder with everything in it.
    ///
    /// # Errors
    /// When something could not be removed; a later sweep tries again.
    pub fn remove(mut self) -> Result<(), StorageError> {
        self.remove_now()
    }

    /// The ids below `root` that a [`Self::sweep`] would remove, sorted. Changes nothing.
    ///
    /// # Errors
    /// When the root cannot be read.
    pub fn leftovers(root: &Path) -> Result<Vec<String>, StorageError> {
        // Without a root lock nothing was ever made here.
        let path = root.join(ROOT_LOCK);
        let _root_lock = match File::open(&path) {
            Ok(file) => {
                file.lock().map_err(at(&path))?;
                file
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at(&path)(error)),
        };
        let mut ids: Vec<String> = abandoned(root)?.into_iter().map(|(id, _)| id).collect();
        ids.sort();
        Ok(ids)
    }

    fn remove_now(&mut self) -> Result<(), StorageError> {
        let Some(owner) = self.owner.take() else { return Ok(()) };
        remove_folder(&self.path, &self.owner_path)?;
        drop(owner);
        Ok(())
    }

    /// Removes the folders below `root` whose owner is gone, and returns their ids, sorted. A missing root has none.
    ///
    /// # Errors
    /// When the root cannot be read or an abandoned folder cannot be removed. The others are removed all the same.
    pub fn sweep(root: &Path) -> Result<Vec<String>, StorageError> {
        if !root.try_exists().map_err(at(root))? {
            return Ok(Vec::new());
        }
        let abandoned = {
            let _root_lock = lock_root(root)?;
            abandoned(root)?
        };
        // The root is free again while files are removed; the owner locks, now ours, keep other sweeps away.
        let mut removed = Vec::new();
        let mut first_error = None;
        for (id, owner) in abandoned {
            match remove_folder(&root.join(&id), &root.join(format!("{id}{OWNER_SUFFIX}"))) {
                Ok(()) => removed.push(id),
                Err(error) => first_error = first_error.or(Some(error)),
            }
            drop(owner);
        }
        removed.sort();
        first_error.map_or(Ok(removed), Err)
    }
}

impl Drop for OwnedDir {
    fn drop(&mut self) {
        // Best effort: what stays is found by the next sweep.
        let _ = self.remove_now();
    }
}

/// The ids below `root` whose owner is gone, each with its lock, taken by us. The caller holds the root lock.
fn abandoned(root: &Path) -> Result<Vec<(String, File)>, StorageError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).map_err(at(root))? {
        let name = entry.map_err(at(root))?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_suffix(OWNER_SUFFIX)) else { continue };
        if !is_plain_file_name(id) {
            continue;
        }
        let path = root.join(&name);
        let owner = match OpenOptions::new().write(true).open(&path) {
            Ok(owner) => owner,
            // Its owner removed it while we looked.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(at(&path)(error)),
        };
        match owner.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => return Err(at(&path)(error)),
        }
        // Its owner may have removed it between open and lock; then the lock says nothing about the name any more.
        if owner.metadata().map_err(at(&path))?.nlink() > 0 {
            found.push((id.to_owned(), owner));
        }
    }
    Ok(found)
}

/// Folder first, owner file last: interrupted anywhere, the owner file still says that the rest may go.
fn remove_folder(path: &Path, owner_path: &Path) -> Result<(), StorageError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(at(path)(error)),
        _ => {}
    }
    match std::fs::remove_file(owner_path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(at(owner_path)(error)),
        _ => Ok(()),
    }
}

fn lock_root(root: &Path) -> Result<File, StorageError> {
    let path = root.join(ROOT_LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(at(&path))?;
    file.lock().map_err(at(&path))?;
    Ok(file)
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> StorageError {
    let path = path.display().to_string();
    move |error| StorageError::from_io(path.clone(), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder whose owner died: what is left when a process is killed.
    fn abandon(root: &Path, id: &str) {
        std::fs::create_dir_all(root.join(id)).unwrap();
        std::fs::write(root.join(id).join("part"), "x").unwrap();
        std::fs::write(root.join(format!("{id}{OWNER_SUFFIX}")), "").unwrap();
    }

    /// T9, T26: exactly the dead one goes, whatever the names have in common.
    #[test]
    fn a_sweep_removes_abandoned_folders_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let live = OwnedDir::create(root.path(), "cpu_1").unwrap();
        std::fs::write(live.path().join("data"), "x").unwrap();
        abandon(root.path(), "cpu");
        abandon(root.path(), "cpu_12");
        std::fs::create_dir(root.path().join("cpu_foreign")).unwrap();
        std::fs::write(root.path().join("file"), "x").unwrap();

        assert_eq!(OwnedDir::leftovers(root.path()).unwrap(), ["cpu", "cpu_12"]);
        assert_eq!(OwnedDir::sweep(root.path()).unwrap(), ["cpu", "cpu_12"]);

        assert!(live.path().join("data").exists());
        assert!(root.path().join("cpu_foreign").exists());
        assert!(root.path().join("file").exists());
        assert_eq!(OwnedDir::sweep(root.path()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_crash_between_owner_file_and_folder_is_finished_by_a_sweep() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join(format!("a{OWNER_SUFFIX}")), "").unwrap();
        assert_eq!(OwnedDir::sweep(root.path()).unwrap(), ["a"]);
        assert!(!root.path().join(format!("a{OWNER_SUFFIX}")).exists());
    }

    #[test]
    fn removal_leaves_no_trace_of_the_folder() {
        let root = tempfile::tempdir().unwrap();
        for dropped in [false, true] {
            let dir = OwnedDir::create(root.path(), "a").unwrap();
            std::fs::create_dir(dir.path().join("nested")).unwrap();
            if dropped {
                drop(dir);
            } else {
                dir.remove().unwrap();
            }
            let left: Vec<_> = std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(left, [ROOT_LOCK]);
        }
    }

    #[test]
    fn an_id_in_use_or_not_a_file_name_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let first = OwnedDir::create(root.path(), "a").unwrap();
        assert!(matches!(OwnedDir::create(root.path(), "a"), Err(StorageError::AlreadyExists { .. })));
        std::fs::create_dir(root.path().join("foreign")).unwrap();
        assert!(matches!(OwnedDir::create(root.path(), "foreign"), Err(StorageError::AlreadyExists { .. })));
        assert_eq!(OwnedDir::sweep(root.path()).unwrap(), Vec::<String>::new());
        assert!(root.path().join("foreign").exists() && first.path().exists());
        for bad in ["", "..", "a/b", "../a"] {
            assert!(matches!(OwnedDir::create(root.path(), bad), Err(StorageError::InvalidName { .. })), "{bad}");
        }
    }

    #[test]
    fn a_missing_root_has_nothing_to_sweep_and_is_not_created() {
        let root = tempfile::tempdir().unwrap();
        let missing = root.path().join("missing");
        assert_eq!(OwnedDir::sweep(&missing).unwrap(), Vec::<String>::new());
        assert!(!missing.exists());
    }

    #[test]
    fn folders_made_and_swept_at_the_same_time_all_survive() {
        let root = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let root = root.path();
                scope.spawn(move || {
                    for round in 0..50 {
                        let dir = OwnedDir::create(root, &format!("{worker}-{round}")).unwrap();
                        assert_eq!(OwnedDir::sweep(root).unwrap(), Vec::<String>::new());
                        assert!(dir.path().exists());
                        dir.remove().unwrap();
                    }
                });
            }
        });
    }
}
