//! The wire: every call on storage, on the locks or on the state database, and every merge, waits here until whoever plays
//! fate lets it go on.
//!
//! ```text
//! worker ── call ──> waiting ── carry out, or not ──> answered ── deliver, late or never ──> worker goes on
//!                       └── the caller is gone: the request may still be carried out, later
//! ```
//!
//! One call at a time is let go, and the next only when everything is at rest. So the order of all effects is the order of
//! these decisions, and nothing else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, oneshot};

/// Who calls: a start of a worker, or a reader.
pub type Caller = Arc<str>;

/// What kind of thing is called for: decides what can go wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A look at an object or its content.
    Get,
    /// A page of a LIST.
    List,
    /// Something that others cannot see yet: a part of an upload, or giving an upload up.
    Prepare,
    /// Completing an upload: the object appears.
    Complete,
    /// Create-if-absent.
    Create,
    /// A lease is written: the one thing that is ever replaced, if it is still what was read.
    Swap,
    /// One deletion of a batch.
    Delete,
    Lock,
    /// Before a piece of work of the state database.
    State,
    /// After it: only its answer can be lost.
    StateAnswer,
    Merge,
}

impl Kind {
    /// Whether it is a durable effect: something that outlives the process.
    pub fn is_effect(self, what: &str) -> bool {
        match self {
            Self::Prepare | Self::Complete | Self::Create | Self::Swap | Self::Delete | Self::Lock => true,
            Self::State => what == "change state",
            Self::Get | Self::List | Self::StateAnswer | Self::Merge => false,
        }
    }

    /// Whether others can see it in storage.
    pub fn changes_storage(self) -> bool {
        matches!(self, Self::Complete | Self::Create | Self::Swap | Self::Delete)
    }

    pub fn is_storage(self) -> bool {
        matches!(self, Self::Get | Self::List | Self::Prepare) || self.changes_storage()
    }
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Not carried out, and an error says so or not: 503, busy, a dead child.
    Refused,
    /// Carried out, and answered by an error.
    AnswerLost,
    /// Carried out, repeated below us, and the repetition is answered: "exists already", or "lost".
    AnsweredTwice,
    /// The answer is about an older version.
    Stale,
}

impl Fault {
    /// Whether there was what goes wrong: only what exists can be stale, and only an effect's answer be lost.
    pub fn happened(self, outcome: &str) -> bool {
        match self {
            Self::Refused => true,
            Self::AnswerLost => outcome == "ANSWER LOST" || outcome.ends_with("(ok)"),
            Self::AnsweredTwice => outcome.ends_with("(first ok)"),
            Self::Stale => outcome == "STALE",
        }
    }
}

/// What becomes of a waiting call.
type Run = Box<dyn FnOnce(Option<Fault>) -> (Deliver, String) + Send>;
/// Gives the answer to the caller.
pub type Deliver = Box<dyn FnOnce() + Send>;

/// A call that waits.
pub struct Waiting {
    number: u64,
    pub caller: Caller,
    pub kind: Kind,
    pub what: &'static str,
    /// A key of storage, or another name.
    pub object: String,
    gone: Arc<AtomicBool>,
    run: Run,
}

impl Waiting {
    /// Nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// Carries it out; the second is the outcome for the time line.
    pub fn run(self, fault: Option<Fault>) -> (Deliver, String) {
        (self.run)(fault)
    }
}

/// Where calls wait.
#[derive(Default)]
pub struct Wire {
    waiting: Mutex<Vec<Waiting>>,
    numbers: Mutex<u64>,
    came: Notify,
}

impl Wire {
    /// Waits for its turn. `effect` is carried out then, or later, or never; it gives the answer, and its outcome in a word.
    pub async fn call<T: Send + 'static>(
        &self,
        caller: &Caller,
        (kind, what, object): (Kind, &'static str, String),
        effect: impl FnOnce(Option<Fault>) -> (T, String) + Send + 'static,
    ) -> T {
        let (answer, answered) = oneshot::channel();
        let gone = Gone(Arc::new(AtomicBool::new(false)));
        let run: Run = Box::new(move |fault| {
            let (value, outcome) = effect(fault);
            let deliver: Deliver = Box::new(move || drop(answer.send(value)));
            (deliver, outcome)
        });
        let number = {
            let mut numbers = self.numbers.lock().unwrap();
            *numbers += 1;
            *numbers
        };
        let (caller, flag) = (Arc::clone(caller), Arc::clone(&gone.0));
        self.waiting.lock().unwrap().push(Waiting { number, caller, kind, what, object, gone: flag, run });
        self.came.notify_one();
        match answered.await {
            Ok(value) => value,
            // The call was thrown away: its caller is about to be, too.
            Err(_) => std::future::pending().await,
        }
    }

    /// Takes what came since the last time. Each caller's calls in the order in which they were made; which caller's came
    /// first, when threads of several were at work, is nobody's to say.
    pub fn take(&self) -> Vec<Waiting> {
        let mut came = std::mem::take(&mut *self.waiting.lock().unwrap());
        came.sort_by(|a, b| (&a.caller, a.number).cmp(&(&b.caller, b.number)));
        came
    }

    /// Until something has come.
    pub async fn came(&self) {
        self.came.notified().await;
    }
}

/// Dropped with the caller's future.
struct Gone(Arc<AtomicBool>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
