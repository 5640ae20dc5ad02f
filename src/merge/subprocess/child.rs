//! One child process, from its start to its end.
//!
//! ```text
//! start ──> request on stdin ──> progress, answer on stdout ──> exit ──> what is left in the pipes ──> result
//!                  │                        │
//!                  └── cancelled: say so, kill after a grace      every tick: resident memory; too much: kill
//! ```
//!
//! What must hold: the child is waited for on every way out of [`run`], so no zombie remains and nothing of it writes any
//! more. When the future is dropped half way the child is killed, and the runtime reaps it. The child gets a process group
//! of its own, so that Ctrl-C at a terminal reaches this process alone, which then cancels; killing takes the whole group.
//! No line, no pipe and no wait is without a bound, however the child behaves.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use std::{future, io, thread};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use super::SubprocessSettings;
use super::failure::Failure;
use super::lines::{Lines, TooLong};
use super::relay::{self, Relay};
use crate::merge::protocol::{FromWorker, Start, Task, ToWorker, to_line};
use crate::merge::resources::ProcessMemory;
use crate::merge::{MergeError, MergeOutcome, ProgressSink};

/// Longest line that a child may write, beyond four times its request: an outcome repeats the names of the request.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// How long a child may take to exit after its answer, and its pipes to close after its exit. A healthy child needs
/// milliseconds; the bound is for one that hangs in a destructor, or that left its pipes to a process of its own.
const LINGER: Duration = Duration::from_secs(2);

/// What one child is started for, and its bounds.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) settings: &'a SubprocessSettings,
    pub(super) task: Task,
    /// The child's working directory, so that whatever it drops by accident lands there.
    pub(super) folder: &'a Path,
    /// Resident memory beyond which it is killed.
    pub(super) memory_ceiling_bytes: u64,
    /// When it is killed, however busy it is.
    pub(super) deadline: Option<Instant>,
}

/// How a child ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) result: Result<Answer, Failure>,
    /// The most resident memory that was seen from outside.
    pub(super) peak_memory_bytes: u64,
}

/// What a child may answer when all is well.
#[derive(Debug)]
pub(super) enum Answer {
    Merged(Box<MergeOutcome>),
    Scanned,
}

/// Runs one child to its end.
pub(super) async fn run(order: Order<'_>, progress: &ProgressSink, cancel: &CancellationToken) -> Ended {
    let started = match request_line(&order.task) {
        Ok(request) => match start(order.settings, order.folder).await {
            Ok(started) => Ok((request, started)),
            Err(source) => {
                Err(MergeError::Worker(format!("cannot start {}: {source}", order.settings.executable.display())))
            }
        },
        // JSON has no way to write such a path.
        Err(error) => Err(MergeError::Worker(format!("the request cannot be sent: {error}"))),
    };
    match started {
        Ok((request, started)) => Conversation::new(&order, request, started, progress).until_the_end(cancel).await,
        Err(error) => Ended { result: Err(Failure::NotStarted(error)), peak_memory_bytes: 0 },
    }
}

fn request_line(task: &Task) -> Result<Vec<u8>, serde_json::Error> {
    let log_level = LevelFilter::current().to_string();
    to_line(&ToWorker::Start(Box::new(Start { parent_pid: std::process::id(), log_level, task: task.clone() })))
}

/// A running child, and the thread that started it.
///
/// On Linux the child asks the kernel to be killed when the *thread* that started it ends. Threads of an async runtime may
/// end long before the process, so each child is started from a thread of its own, which then only waits to be let go.
#[derive(Debug)]
struct Started {
    child: Child,
    _thread: KeptThread,
}

/// Dropping it ends the thread.
#[derive(Debug)]
struct KeptThread(#[expect(dead_code, reason = "held, never used")] std::sync::mpsc::Sender<()>);

async fn start(settings: &SubprocessSettings, folder: &Path) -> io::Result<Started> {
    let mut command = Command::new(&settings.executable);
    command
        .args(&settings.arguments)
        .env_clear()
        .envs(settings.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(folder)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let runtime = Handle::current();
    let (send, receive) = oneshot::channel();
    let (keep, let_go) = std::sync::mpsc::channel::<()>();
    thread::Builder::new().name("merge-child".into()).spawn(move || {
        let _context = runtime.enter();
        if send.send(command.spawn()).is_ok() {
            let _ = let_go.recv();
        }
    })?;
    let child = receive.await.map_err(io::Error::other)??;
    Ok(Started { child, _thread: KeptThread(keep) })
}

/// Everything that is going on with one child.
#[derive(Debug)]
struct Conversation<'a> {
    order: &'a Order<'a>,
    progress: &'a ProgressSink,
    request: Vec<u8>,
    started: Started,
    relay: Relay,
    answer: Option<Result<Answer, MergeError>>,
    /// Why it was killed, if it was.
    killed: Option<Failure>,
    cancelled: bool,
    peak_memory_bytes: u64,
    alarm: Option<Alarm>,
}

/// The next moment at which patience ends.
#[derive(Debug)]
struct Alarm {
    at: Instant,
    failure: Failure,
}

impl<'a> Conversation<'a> {
    fn new(order: &'a Order<'a>, request: Vec<u8>, started: Started, progress: &'a ProgressSink) -> Self {
        let relay = Relay::new(started.child.id().unwrap_or_default(), &order.task.request().job_id);
        let too_late = Failure::TooLate(order.settings.deadline.unwrap_or_default());
        Self {
            order,
            progress,
            request,
            started,
            relay,
            answer: None,
            killed: None,
            cancelled: false,
            peak_memory_bytes: 0,
            alarm: order.deadline.map(|at| Alarm { at, failure: too_late }),
        }
    }

    async fn until_the_end(mut self, cancel: &CancellationToken) -> Ended {
        let (stdin, mut stdout, mut stderr) = self.pipes();
        // Lives until the end of this function: closing stdin would tell the child that this process is gone.
        let mut feeding = Box::pin(feed(stdin, std::mem::take(&mut self.request), cancel));
        let (mut stdout_open, mut stderr_open) = (true, true);
        let mut tick = interval(self.order.settings.memory_poll);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut exit: Option<io::Result<ExitStatus>> = None;
        let mut drained_by = None;

        while exit.is_none() || stdout_open || stderr_open {
            let patience_ends = drained_by.or(self.alarm.as_ref().map(|alarm| alarm.at));
            tokio::select! {
                line = stdout.next(), if stdout_open => match line {
                    Ok(Some(line)) => self.hear(&line),
                    Ok(None) => stdout_open = false,
                    Err(error) => {
                        stdout_open = false;
                        self.kill(Failure::Nonsense(error.to_string()));
                    }
                },
                line = stderr.next(), if stderr_open => match line {
                    Ok(Some(line)) => self.relay.line(&line),
                    Ok(None) | Err(_) => stderr_open = false,
                },
                status = self.started.child.wait(), if exit.is_none() => {
                    exit = Some(status);
                    drained_by = Some(Instant::now() + LINGER);
                }
                () = wait_until(patience_ends) => match self.alarm.take() {
                    Some(alarm) if exit.is_none() => self.kill(alarm.failure),
                    _ => break,
                },
                _ = tick.tick(), if exit.is_none() => self.check_memory(),
                () = cancel.cancelled(), if !self.cancelled && exit.is_none() => {
                    self.cancelled = true;
                    self.alarm_after(self.order.settings.cancel_grace, Failure::Cancelled);
                }
                () = &mut feeding => {}
            }
        }
        drop(feeding);
        self.ended(exit.expect("the loop goes on until the child has been waited for"))
    }

    fn pipes(&mut self) -> (ChildStdin, Lines<ChildStdout>, Lines<ChildStderr>) {
        const PIPED: &str = "the command pipes all three streams, and this is the only place that takes them";
        let max_message_bytes = MAX_MESSAGE_BYTES + 4 * self.request.len();
        (
            self.started.child.stdin.take().expect(PIPED),
            Lines::new(self.started.child.stdout.take().expect(PIPED), max_message_bytes, TooLong::Fail),
            Lines::new(self.started.child.stderr.take().expect(PIPED), relay::MAX_LINE_BYTES, TooLong::Cut),
        )
    }

    fn hear(&mut self, line: &[u8]) {
        if self.killed.is_some() {
            return;
        }
        if self.answer.is_some() {
            return self.kill(Failure::Nonsense("it went on after its answer".into()));
        }
        let answer = match serde_json::from_slice(line) {
            Ok(FromWorker::Progress(progress)) => return self.progress.report(progress),
            Ok(FromWorker::Outcome(outcome)) => Ok(Answer::Merged(outcome)),
            Ok(FromWorker::Scanned {}) => Ok(Answer::Scanned),
            Ok(FromWorker::Error(error)) => Err(error.into()),
            Err(error) => {
                let beginning: String = String::from_utf8_lossy(line).chars().take(100).collect();
                return self.kill(Failure::Nonsense(format!("{error} in {beginning:?}")));
            }
        };
        self.answer = Some(answer);
        self.alarm_after(LINGER, Failure::TooLate(LINGER));
    }

    fn check_memory(&mut self) {
        let Some(memory) = self.started.child.id().and_then(ProcessMemory::of) else { return };
        self.peak_memory_bytes = self.peak_memory_bytes.max(memory.peak_bytes);
        let ceiling_bytes = self.order.memory_ceiling_bytes;
        if memory.resident_bytes > ceiling_bytes {
            let limit_bytes = self.order.task.request().limits.memory_bytes;
            let resident_bytes = memory.resident_bytes;
            self.kill(Failure::TooMuchMemory { resident_bytes, ceiling_bytes, limit_bytes });
        }
    }

    /// Kills the child after `patience`, unless something else does so earlier.
    fn alarm_after(&mut self, patience: Duration, failure: Failure) {
        let at = Instant::now() + patience;
        if self.alarm.as_ref().is_none_or(|alarm| at < alarm.at) {
            self.alarm = Some(Alarm { at, failure });
        }
    }

    /// Kills the child and everything it started. The first reason is the one that counts.
    fn kill(&mut self, reason: Failure) {
        // As long as it has an id it has not been waited for, so the number cannot belong to anybody else.
        if let Some(group) = self.started.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            let _ = kill_process_group(group, Signal::KILL);
            let _ = self.started.child.start_kill();
        }
        self.killed.get_or_insert(reason);
        self.alarm = None;
    }

    fn ended(self, exit: io::Result<ExitStatus>) -> Ended {
        let result = match (self.killed, self.answer) {
            (Some(nonsense @ Failure::Nonsense(_)), _) => Err(nonsense),
            // A whole answer counts, whatever became of the child after it.
            (_, Some(answer)) => answer.map_err(Failure::Reported),
            (Some(reason), None) => Err(reason),
            (None, None) if self.cancelled => Err(Failure::Cancelled),
            (None, None) => Err(match exit {
                Ok(status) => Failure::of_exit(status, &self.relay.last_words()),
                Err(error) => Failure::Nonsense(format!("its end cannot be waited for: {error}")),
            }),
        };
        Ended { result, peak_memory_bytes: self.peak_memory_bytes }
    }
}

/// Writes the request, later perhaps the wish to cancel, and never ends. A child that does not read has died or is about
/// to be killed; its end says more than a broken pipe.
async fn feed(mut stdin: ChildStdin, request: Vec<u8>, cancel: &CancellationToken) {
    if stdin.write_all(&request).await.is_ok() {
        cancel.cancelled().await;
        if let Ok(line) = to_line(&ToWorker::Cancel(true)) {
            let _ = stdin.write_all(&line).await;
        }
    }
    future::pending::<()>().await;
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => future::pending().await,
    }
}
