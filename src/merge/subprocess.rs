//! Merging in child processes, so that a merge that crashes, hangs or runs out of memory costs a job and not the server.
//!
//! ```text
//! merge ── outcome ─────────────────────────────────────────────────────────────────────> done
//!   │ crash, out of memory
//!   └─> merge with smaller slices ── outcome ───────────────────────────────────────────> done
//!         │ crash                                        out of memory, as the engine says ──> error
//!         └─> does a child live that reads nothing? ── no ──> error: it is not the files
//!               └─> scan halves of the inputs ── no file crashes alone ──> error
//!                     └─> merge the others, the guilty set aside ───────────────────────> done
//! ```
//!
//! What must hold: an outcome names every input exactly once, as consumed or as set aside (I9), whatever a child says; a
//! file is blamed only for a crash that happened while it was read alone, by a program that otherwise works; children,
//! their memory, output and time are bounded (I10, I11); nothing of this process's environment but [`PASSED_ON`] reaches a
//! child, so no credential does (T13); no attempt sees what an earlier one left behind.
//!
//! Each attempt works in a folder of its own inside the request's work folder; the folder of a failed attempt is removed
//! when its child is gone. Not here: what the child does ([`super::worker`]), and what becomes of files set aside.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{MergeEngine, MergeError, MergeOutcome, MergeRequest, ProgressSink};
use attempts::Attempts;

mod attempts;
mod child;
mod failure;
mod halving;
mod lines;
mod outcome;
mod relay;
#[cfg(test)]
mod tests;

/// The hidden command of `arc` that is the child's side.
pub const WORKER_COMMAND: &str = "merge-worker";

/// The environment variables that a child gets: what the system's loader and libraries need.
pub const PASSED_ON: [&str; 4] = ["PATH", "LANG", "LD_LIBRARY_PATH", "TMPDIR"];

/// How glibc's allocator in a child behaves: by default it gives memory back to the system and asks for it again all the
/// time. Measured on the headline merge (45 M rows, 2 cores): 6 % less time, a third less of it in the system, 5 MB more
/// memory. Other allocators do not look at these variables.
pub const ALLOCATOR: [(&str, &str); 3] =
    [("MALLOC_MMAP_THRESHOLD_", "33554432"), ("MALLOC_TRIM_THRESHOLD_", "67108864"), ("MALLOC_TOP_PAD_", "8388608")];

/// How a child is started, and how much patience there is with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubprocessSettings {
    /// An absolute path. The program must be the worker itself, not a script that starts it: the child checks that its
    /// parent is this process.
    pub executable: PathBuf,
    pub arguments: Vec<OsString>,
    /// The child's whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// For one merge with all its attempts. `None`: no limit.
    pub deadline: Option<Duration>,
    /// From the wish to cancel until the child is killed.
    pub cancel_grace: Duration,
    /// How often the child's memory is looked at.
    pub memory_poll: Duration,
    /// Resident memory that a child may have beyond its limit, at the least: the program itself, and what the engine
    /// allocates past its own accounting. See [`SubprocessSettings::memory_ceiling_bytes`].
    pub memory_headroom_bytes: u64,
}

impl SubprocessSettings {
    /// This very program as `merge-worker`, with the defaults.
    ///
    /// # Errors
    /// When the system cannot tell which program this is.
    pub fn this_program() -> io::Result<Self> {
        // Through this link a child is the program that is running here, even after an upgrade has replaced the file.
        let running = Path::new("/proc/self/exe");
        let executable = if running.exists() { running.to_path_buf() } else { std::env::current_exe()? };
        Ok(Self::new(executable))
    }

    /// `EXECUTABLE merge-worker`, with the defaults.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "passed on to the child, not read")]
    pub fn new(executable: PathBuf) -> Self {
        let passed_on = PASSED_ON.into_iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?)));
        Self {
            executable,
            arguments: vec![WORKER_COMMAND.into()],
            environment: passed_on.chain(ALLOCATOR.map(|(name, value)| (name.into(), value.into()))).collect(),
            deadline: None,
            cancel_grace: Duration::from_secs(5),
            memory_poll: Duration::from_millis(100),
            memory_headroom_bytes: 256 << 20,
        }
    }

    /// The resident memory at which a child with this limit is killed: half as much again, and at least the headroom more.
    /// DuckDB keeps its own count within its limit, and some allocations bypass the count; about 90 MB beyond the limit
    /// are normal, so this is far from any healthy merge and well before the machine suffers.
    #[must_use]
    pub fn memory_ceiling_bytes(&self, limit_bytes: u64) -> u64 {
        limit_bytes.saturating_add((limit_bytes / 2).max(self.memory_headroom_bytes))
    }
}

/// Merges in child processes.
#[derive(Debug)]
pub struct SubprocessEngine {
    settings: SubprocessSettings,
}

impl SubprocessEngine {
    #[must_use]
    pub fn new(settings: SubprocessSettings) -> Self {
        Self { settings }
    }
}

#[async_trait]
impl MergeEngine for SubprocessEngine {
    async fn merge(
        &self,
        request: MergeRequest,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<MergeOutcome, MergeError> {
        Attempts::new(&self.settings, &request, &progress, &cancel).merge().await
    }
}
