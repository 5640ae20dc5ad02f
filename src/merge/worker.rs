//! The child's side of a merge in a process of its own: reads one request on stdin, does it, answers on stdout.
//!
//! What must hold:
//! - The child never outlives its parent (T25). The parent holds the child's stdin open for as long as it lives, so end of
//!   file there ends the child at once, by SIGKILL to itself: an orderly exit would run destructors beside a busy engine.
//!   The kernel closes the pipe however the parent dies. As a second line, on Linux the kernel kills the child when the
//!   parent's thread that started it ends, which also reaches a child that is stopped; the parent keeps that thread for
//!   the whole life of the child.
//! - The child is expendable: it runs at a lower CPU priority, and it is the first choice of the kernel's out-of-memory
//!   killer, before the server (I10).
//! - Everything it needs is in the request. It reads no configuration and no environment, and talks to no storage (T13).
//!
//! What the child does is injected, so this file knows no engine. A panic or crash of the engine is not caught here: it
//! ends the process, and the parent knows what to do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::{Arc, Mutex};
use std::thread;

use tokio_util::sync::CancellationToken;

use super::protocol::{FromWorker, Start, Task, ToWorker, to_line};
use super::resources::ProcessMemory;
use super::{MergeError, MergeOutcome, MergeRequest, ProgressSink};

/// Added to the process's niceness: compaction yields to ingestion and queries.
const NICENESS: i32 = 10;

/// The highest score there is: the out-of-memory killer takes this process first.
const OOM_SCORE_ADJ: &str = "1000";

/// Makes this process expendable and ties its life to its parent's. To be called first, before any other thread exists,
/// because threads inherit their priority from the thread that starts them.
///
/// Each step is a second line of defence or a courtesy, so that a system that refuses one is no reason not to merge.
pub fn prepare_process() {
    let _ = rustix::process::nice(NICENESS);
    #[cfg(target_os = "linux")]
    {
        let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ);
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    }
}

/// Ends this process at once, running no destructor.
pub fn die() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // The signal ends the process before the call returns. If a system should refuse it, this does not.
    std::process::abort();
}

/// Whether this process's parent is still the one that wrote the request.
fn has_parent(pid: u32) -> bool {
    rustix::process::getppid().is_some_and(|parent| u32::try_from(parent.as_raw_nonzero().get()) == Ok(pid))
}

/// A conversation with the parent, of which the request has been read.
#[derive(Debug)]
pub struct Session<R, W> {
    start: Start,
    input: BufReader<R>,
    output: W,
}

impl<R, W> Session<R, W>
where
    R: Read + Send + 'static,
    W: Write + Send + 'static,
{
    /// Reads the request from `input`.
    ///
    /// # Errors
    /// When the input ends first, or is not a request; then the parent has been told on `output`.
    pub fn open(input: R, mut output: W) -> io::Result<Self> {
        let mut input = BufReader::new(input);
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no merge request on standard input"));
        }
        let refusal = match serde_json::from_str(&line) {
            Ok(ToWorker::Start(start)) => return Ok(Self { start: *start, input, output }),
            Ok(ToWorker::Cancel(_)) => "cancelled before anything was asked for".to_owned(),
            Err(error) => format!("not a merge request: {error}"),
        };
        send(&mut output, &FromWorker::Error(MergeError::Worker(refusal.clone()).into()))?;
        Err(io::Error::new(io::ErrorKind::InvalidData, refusal))
    }

    /// The most detailed level of which the parent wants to hear: `OFF`, `ERROR`, `WARN`, `INFO`, `DEBUG` or `TRACE`.
    #[must_use]
    pub fn log_level(&self) -> &str {
        &self.start.log_level
    }

    /// [`Session::run`] for a process: checks that the parent is still there, and dies when it is not.
    ///
    /// # Errors
    /// When the answer could not be written.
    pub fn run_as_process(
        self,
        merge: impl FnOnce(&MergeRequest, &ProgressSink, &CancellationToken) -> Result<MergeOutcome, MergeError>,
        scan: impl FnOnce(&MergeRequest, &CancellationToken) -> Result<(), MergeError>,
    ) -> io::Result<()> {
        // The parent may have died before the kernel was asked to tie the two lives together.
        if !has_parent(self.start.parent_pid) {
            die();
        }
        self.run(merge, scan, die)
    }

    /// Does what the parent asked for and writes the answer. `merge` and `scan` block; they are cancelled by their token
    /// when the parent says so. `on_orphaned` is called, on another thread, as soon as the parent is gone.
    ///
    /// The thread that listens to the parent is not waited for: it reads until end of file, and ends with the process.
    ///
    /// # Errors
    /// When the answer could not be written.
    pub fn run(
        self,
        merge: impl FnOnce(&MergeRequest, &ProgressSink, &CancellationToken) -> Result<MergeOutcome, MergeError>,
        scan: impl FnOnce(&MergeRequest, &CancellationToken) -> Result<(), MergeError>,
        on_orphaned: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let Self { start, input, output } = self;
        let cancel = CancellationToken::new();
        let output = Arc::new(Mutex::new(output));
        let told_to_cancel = cancel.clone();
        thread::Builder::new()
            .name("parent-watch".into())
            .spawn(move || watch_parent(input, &told_to_cancel, on_orphaned))?;

        let answer = match &start.task {
            Task::Merge(request) => {
                let progress = progress_to(&output);
                merge(request, &progress, &cancel).map(with_peak_memory).map(|o| FromWorker::Outcome(Box::new(o)))
            }
            Task::Scan(request) => scan(request, &cancel).map(|()| FromWorker::Scanned {}),
        };
        let answer = answer.unwrap_or_else(|error| FromWorker::Error(error.into()));
        send(&mut *output.lock().expect("no holder of this lock panics"), &answer)
    }
}

/// Cancels when the parent says so; reports when it is gone. Anything unknown is ignored.
fn watch_parent(input: impl BufRead, cancel: &CancellationToken, on_orphaned: impl FnOnce()) {
    for line in input.lines() {
        match line.as_deref().map(serde_json::from_str) {
            Ok(Ok(ToWorker::Cancel(true))) => cancel.cancel(),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    on_orphaned();
}

/// Progress is a courtesy: a line that cannot be written is dropped, and the watch on stdin finds out why.
fn progress_to(output: &Arc<Mutex<impl Write + Send + 'static>>) -> ProgressSink {
    let output = Arc::clone(output);
    ProgressSink::new(move |progress| {
        let _ = send(&mut *output.lock().expect("no holder of this lock panics"), &FromWorker::Progress(progress));
    })
}

/// The kernel's own high-water mark, which no sampling from outside can miss.
fn with_peak_memory(mut outcome: MergeOutcome) -> MergeOutcome {
    if let Some(memory) = ProcessMemory::of_this_process() {
        outcome.peak_memory_bytes = outcome.peak_memory_bytes.max(memory.peak_bytes);
    }
    outcome
}

fn send(output: &mut impl Write, message: &FromWorker) -> io::Result<()> {
    output.write_all(&to_line(message)?)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, pipe};
    use std::sync::mpsc;

    use super::*;
    use crate::merge::testing::{outcome_of, request};
    use crate::merge::{MergeProgress, MergeStep};

    const PROGRESS: MergeProgress = MergeProgress { step: MergeStep::Merge, done: 1, total: 2, input_bytes_done: 3 };

    /// The parent's ends of the two pipes.
    struct Parent {
        to_worker: PipeWriter,
        from_worker: BufReader<PipeReader>,
    }

    impl Parent {
        fn say(&mut self, message: &ToWorker) {
            self.to_worker.write_all(&to_line(message).unwrap()).unwrap();
        }

        fn hear(&mut self) -> FromWorker {
            let mut line = String::new();
            self.from_worker.read_line(&mut line).unwrap();
            serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
        }
    }

    fn opened(task: Task) -> (Parent, Session<PipeReader, PipeWriter>) {
        let (stdin, to_worker) = pipe().unwrap();
        let (from_worker, stdout) = pipe().unwrap();
        let mut parent = Parent { to_worker, from_worker: BufReader::new(from_worker) };
        parent.say(&ToWorker::Start(Box::new(Start { parent_pid: 1, log_level: "DEBUG".into(), task })));
        let session = Session::open(stdin, stdout).unwrap();
        (parent, session)
    }

    fn no_scan(_: &MergeRequest, _: &CancellationToken) -> Result<(), MergeError> {
        panic!("nobody asked for a scan")
    }

    #[test]
    fn a_merge_is_answered_by_its_progress_and_its_outcome() {
        let asked = request(&["a", "b"]);
        let (mut parent, session) = opened(Task::Merge(asked.clone()));
        assert_eq!(session.log_level(), "DEBUG");
        let merge = |received: &MergeRequest, progress: &ProgressSink, _: &CancellationToken| {
            assert_eq!(*received, asked);
            progress.report(PROGRESS);
            Ok(outcome_of(received))
        };
        session.run(merge, no_scan, || ()).unwrap();
        assert!(matches!(parent.hear(), FromWorker::Progress(PROGRESS)));
        let FromWorker::Outcome(outcome) = parent.hear() else { panic!("no outcome") };
        assert!(outcome.peak_memory_bytes > 0, "the kernel's high-water mark is filled in");
        assert_eq!(*outcome, MergeOutcome { peak_memory_bytes: outcome.peak_memory_bytes, ..outcome_of(&asked) });
    }

    #[test]
    fn a_scan_and_an_error_are_answered_by_one_line() {
        let (mut parent, session) = opened(Task::Scan(request(&["a"])));
        session.run(|_, _, _| panic!("nobody asked for a merge"), |_, _| Ok(()), || ()).unwrap();
        assert!(matches!(parent.hear(), FromWorker::Scanned {}));

        let (mut parent, session) = opened(Task::Merge(request(&["a"])));
        session.run(|_, _, _| Err(MergeError::ProofFailed("1 row".into())), no_scan, || ()).unwrap();
        let FromWorker::Error(error) = parent.hear() else { panic!("no error") };
        assert!(matches!(error.into(), MergeError::ProofFailed(detail) if detail == "1 row"));
    }

    #[test]
    fn a_cancel_line_cancels_the_work() {
        let (mut parent, session) = opened(Task::Merge(request(&["a"])));
        parent.say(&ToWorker::Cancel(true));
        let merge = |_: &MergeRequest, _: &ProgressSink, cancel: &CancellationToken| {
            futures::executor::block_on(cancel.cancelled());
            Err(MergeError::Cancelled)
        };
        session.run(merge, no_scan, || ()).unwrap();
        let FromWorker::Error(error) = parent.hear() else { panic!("no error") };
        assert!(matches!(error.into(), MergeError::Cancelled));
    }

    /// T25.
    #[test]
    fn the_end_of_the_parent_is_noticed_in_the_middle_of_a_merge() {
        let (parent, session) = opened(Task::Merge(request(&["a"])));
        let (orphaned, is_orphaned) = mpsc::channel();
        let merge = |_: &MergeRequest, _: &ProgressSink, _: &CancellationToken| {
            drop(parent);
            is_orphaned.recv().expect("the watch tells when the parent is gone");
            Err(MergeError::Cancelled)
        };
        let answered = session.run(merge, no_scan, move || orphaned.send(()).unwrap());
        assert_eq!(answered.unwrap_err().kind(), io::ErrorKind::BrokenPipe, "nobody is there to read the answer");
    }

    #[test]
    fn what_is_no_request_is_refused_with_an_answer() {
        for (line, reason) in [("{\"start\":1}\n", "not a merge request"), ("{\"cancel\":true}\n", "cancelled before")]
        {
            let (from_worker, stdout) = pipe().unwrap();
            let error = Session::open(line.as_bytes(), stdout).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            let answer = io::read_to_string(from_worker).unwrap();
            assert!(answer.starts_with("{\"error\":{\"kind\":\"worker\"") && answer.contains(reason), "{answer}");
        }
        assert_eq!(Session::open(io::empty(), io::sink()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn only_the_process_that_started_this_one_is_its_parent() {
        assert!(has_parent(std::os::unix::process::parent_id()));
        assert!(!has_parent(std::process::id()));
    }
}
