//! What takes part in a history. Not everything does in every search: the searches would not end.

use super::world::{EARLY, Files, LATE};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is independent of the others")]
pub struct Setup {
    /// How often each of the two workers attempts a merge. It crashes, starts again and tidies any number of times.
    pub attempts: [u8; 2],
    /// Files that are there from the beginning.
    pub early: Files,
    /// Files that arrive at any time.
    pub late: Files,
    /// The name of an early file is used again at any time, but not while a create that retires it is under way: within
    /// that time no re-check can help, which is why writers must not do this.
    pub reused_name: bool,
    pub reader: bool,
    /// While nobody works, the newest record is lost: a folder restored in part.
    pub lost_record: bool,
    /// While nobody works, a file that counts is lost that could be merged again: a folder restored in part, or not yet all.
    pub lost_file: bool,
    /// The reader reads files later than it looks at the records again, and meanwhile they may vanish.
    pub reads_later: bool,
    /// Creates may take effect below the head, and publications twice.
    pub very_late_writes: bool,
    /// Workers may plan, and void, while there is still something to tidy. Ours do not; safety must not rest on it.
    pub untidied: bool,
    /// Who begins may take for the head what it saw last, or that there is none, as `observe_from` does: the LIST that
    /// follows must tell.
    pub guesses: bool,
    /// A worker's LIST is made of two pages, as a reader's always is.
    pub paged: bool,
}

impl Setup {
    /// Two workers with two attempts each, and a late file.
    pub const WORKERS: Self = Self {
        attempts: [2, 2],
        early: EARLY,
        late: LATE,
        reused_name: false,
        reader: false,
        lost_record: false,
        lost_file: false,
        reads_later: false,
        very_late_writes: false,
        untidied: false,
        guesses: false,
        paged: false,
    };
    /// One attempt each, for those counterexamples that need no more.
    pub const SMALL: Self = Self { attempts: [1, 1], ..Self::WORKERS };
    /// All files are late: at the beginning there may be any of them.
    pub const ALL_LATE: Self = Self { early: 0, late: EARLY | LATE, ..Self::WORKERS };
    pub const REUSED_NAME: Self = Self { reused_name: true, ..Self::WORKERS };
    pub const UNTIDIED: Self = Self { untidied: true, ..Self::SMALL };
    pub const VERY_LATE: Self = Self { very_late_writes: true, attempts: [2, 1], ..Self::UNTIDIED };
    pub const READER: Self = Self { reader: true, ..Self::WORKERS };
    pub const GUESSES: Self = Self { guesses: true, ..Self::WORKERS };
    pub const GUESSING_READER: Self = Self { guesses: true, attempts: [1, 1], ..Self::READER };
    /// One early file and two late ones: what a page shows may be older than another late file.
    pub const PAGED: Self = Self { paged: true, early: 0b0001, late: 0b0110, ..Self::WORKERS };
    pub const LOST_RECORD: Self = Self { late: 0, lost_record: true, ..Self::WORKERS };
    pub const LOST_FILE: Self = Self { lost_file: true, attempts: [2, 1], ..Self::WORKERS };
    pub const VANISHING: Self = Self { reads_later: true, attempts: [1, 1], ..Self::READER };

    pub const fn with_attempts(self, attempts: [u8; 2]) -> Self {
        Self { attempts, ..self }
    }
}
