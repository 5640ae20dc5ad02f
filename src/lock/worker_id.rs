//! Who holds a lease: a process, named so that another process of the same machine can tell whether it still lives.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;
use std::sync::OnceLock;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// A process, as `{boot id}-{pid namespace}:{pid}:{start time in ticks}:{random}`.
///
/// Boot id and PID namespace name the machine (or container) and its run: only there do process numbers mean anything.
/// Pid and start time name one process for all time, although numbers are reused. The random part tells workers apart
/// where `/proc` tells nothing.
///
/// Any other short text is accepted as the id of a worker that is never known to be dead.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(String);

/// A text that is not the id of a worker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a worker id: expected 1 to {MAX_BYTES} bytes without control characters")]
pub struct WorkerIdError(String);

const MAX_BYTES: usize = 256;

/// Stands for the machine where it cannot be named.
const UNKNOWN_MACHINE: &str = "unknown";

impl WorkerId {
    /// This process. The same value in the whole process.
    #[must_use]
    pub fn of_this_process() -> Self {
        static THIS: OnceLock<WorkerId> = OnceLock::new();
        THIS.get_or_init(|| {
            let machine = this_machine().unwrap_or_else(|| UNKNOWN_MACHINE.to_owned());
            let pid = std::process::id();
            let start_ticks = ProcessStat::read(pid).map_or(0, |stat| stat.start_ticks);
            Self(format!("{machine}:{pid}:{start_ticks}:{:08x}", fastrand::u32(..)))
        })
        .clone()
    }

    /// Whether this is a process of this machine, since its last boot and in this PID namespace, that has ended.
    ///
    /// `false` whenever there is no proof: for a process of another machine, of another container, of this machine
    /// before a reboot (another machine cannot be told from that), or where `/proc` cannot be read.
    #[must_use]
    pub fn is_dead_here(&self) -> bool {
        let mut parts = self.0.split(':');
        let (Some(machine), Some(pid), Some(start_ticks), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let (Ok(pid), Ok(start_ticks)) = (pid.parse::<u32>(), start_ticks.parse::<u64>()) else { return false };
        this_machine().is_some_and(|here| here == machine) && has_ended(pid, start_ticks)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for WorkerId {
    type Err = WorkerIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > MAX_BYTES || text.chars().any(char::is_control) {
            return Err(WorkerIdError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Boot id and PID namespace, where the system has them.
fn this_machine() -> Option<String> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let pid_namespace = std::fs::metadata("/proc/self/ns/pid").ok()?.ino();
    Some(format!("{}-{pid_namespace}", boot_id.trim()))
}

fn has_ended(pid: u32, start_ticks: u64) -> bool {
    let Some(pid_number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return false };
    match ProcessStat::read(pid) {
        // A process that ended and was not waited for keeps its entry; with more than one thread it may still run.
        Some(stat) => stat.start_ticks != start_ticks || (matches!(stat.state, 'Z' | 'X') && stat.threads <= 1),
        // `/proc` may hide the processes of other users, so a missing entry alone proves nothing.
        None => test_kill_process(pid_number) == Err(Errno::SRCH),
    }
}

/// The fields of `/proc/{pid}/stat` that are needed here; see `man 5 proc_pid_stat`.
struct ProcessStat {
    state: char,
    threads: u64,
    start_ticks: u64,
}

impl ProcessStat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The second field is the command in parentheses and may contain anything, also blanks and parentheses.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // Fields are numbered from 1 in the manual, and these begin with the third.
        let field = |number: usize| fields.get(number - 3);
        Some(Self {
            state: field(3)?.chars().next()?,
            threads: field(20)?.parse().ok()?,
            start_ticks: field(22)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::{WaitId, WaitIdOptions, waitid};

    use super::*;

    fn worker(machine: &str, pid: u32, start_ticks: u64) -> WorkerId {
        format!("{machine}:{pid}:{start_ticks}:0").parse().unwrap()
    }

    #[test]
    fn this_process_is_itself_and_alive() {
        let this = WorkerId::of_this_process();
        assert_eq!(this, WorkerId::of_this_process());
        assert_eq!(this.to_string().parse::<WorkerId>().unwrap(), this);
        assert!(!this.is_dead_here());
    }

    #[test]
    fn a_process_is_dead_from_its_end_on_also_before_anyone_waited_for_it() {
        let machine = this_machine().unwrap();
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let started = ProcessStat::read(child.id()).unwrap().start_ticks;
        let id = worker(&machine, child.id(), started);
        assert!(!id.is_dead_here());

        child.kill().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        assert!(id.is_dead_here(), "as a zombie");
        child.wait().unwrap();
        assert!(id.is_dead_here(), "after it was waited for");
    }

    #[test]
    fn a_reused_process_number_is_another_process() {
        let machine = this_machine().unwrap();
        assert!(worker(&machine, std::process::id(), 1).is_dead_here());
    }

    #[test]
    fn nothing_is_known_about_other_machines_and_other_texts() {
        let machine = this_machine().unwrap();
        let (_, namespace) = machine.rsplit_once('-').unwrap();
        let other_boot = format!("00000000-0000-0000-0000-000000000000-{namespace}");
        assert!(!worker(&other_boot, 1, 1).is_dead_here());
        assert!(!worker(&format!("{machine}1"), 1, 1).is_dead_here());
        assert!(!worker(UNKNOWN_MACHINE, 1, 1).is_dead_here());
        for text in ["w1".to_owned(), format!("{machine}:1:1"), format!("{machine}:0:1:0"), format!("{machine}:-1:1:0")]
        {
            assert!(!text.parse::<WorkerId>().unwrap().is_dead_here(), "{text}");
        }
        for bad in ["", "a\nb", &"x".repeat(MAX_BYTES + 1)] {
            assert!(bad.parse::<WorkerId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_command_in_a_stat_line_may_contain_anything() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 102 0 0 0 0 0 0 0 20 0 3 0 327235 3133440 379";
        let stat = ProcessStat::parse(stat).unwrap();
        assert_eq!((stat.state, stat.threads, stat.start_ticks), ('S', 3, 327_235));
    }
}
