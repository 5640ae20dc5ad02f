//! A program under ptrace(2): whoever traces it is told of every system call that one of its threads or processes begins.
//!
//! Who traces must be a process with one thread to trace by: a test binary started again with one test selected. It waits for
//! every child that it has, so it may have no others.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]

use std::collections::HashSet;
use std::io::Write;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc::{self, c_long};
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The call that a thread is about to make: its number and the first of its arguments.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub number: c_long,
    pub arguments: [u64; 3],
}

#[cfg(target_arch = "x86_64")]
fn call(thread: Pid) -> nix::Result<Call> {
    let registers = ptrace::getregs(thread)?;
    let number = c_long::try_from(registers.orig_rax).unwrap_or(-1);
    Ok(Call { number, arguments: [registers.rdi, registers.rsi, registers.rdx] })
}

#[cfg(target_arch = "aarch64")]
fn call(thread: Pid) -> nix::Result<Call> {
    let registers = ptrace::getregs(thread)?.regs;
    let number = c_long::try_from(registers[8]).unwrap_or(-1);
    Ok(Call { number, arguments: [registers[0], registers[1], registers[2]] })
}

impl Call {
    /// What it does if it changes a name, or makes something durable.
    pub fn change(self) -> Option<&'static str> {
        #[cfg(target_arch = "x86_64")]
        match self.number {
            libc::SYS_mkdir => return Some("mkdir"),
            libc::SYS_rmdir => return Some("rmdir"),
            libc::SYS_link => return Some("link"),
            libc::SYS_rename => return Some("rename"),
            libc::SYS_unlink => return Some("unlink"),
            _ => {}
        }
        match self.number {
            libc::SYS_mkdirat => Some("mkdir"),
            libc::SYS_linkat => Some("link"),
            libc::SYS_renameat | libc::SYS_renameat2 => Some("rename"),
            libc::SYS_unlinkat => Some("unlink"),
            libc::SYS_fsync | libc::SYS_fdatasync => Some("sync"),
            _ => None,
        }
    }
}

/// Runs a command of the shell, which must first read a line from its standard input, until it and everything that it has
/// started have ended. `begins` is given the command's process, the thread, and its call. The exit code of the command, unless
/// a signal ended it.
#[allow(clippy::zombie_processes, reason = "waited for by its process id, with everything that it starts")]
pub fn run(command: &mut Command, mut begins: impl FnMut(Pid, Pid, Call)) -> Option<i32> {
    let mut program = command.stdin(Stdio::piped()).spawn().unwrap();
    let main = Pid::from_raw(i32::try_from(program.id()).unwrap());
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(main, options).unwrap();
    ptrace::interrupt(main).unwrap();
    let mut line = program.stdin.take();
    let (mut code, mut inside) = (None, HashSet::new());
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Ok(status) => status,
            Err(Errno::ECHILD) => return code,
            Err(error) => panic!("{error}"),
        };
        // The first stop is the one that was asked for.
        if let Some(mut line) = line.take() {
            line.write_all(b"\n").unwrap();
        }
        let (thread, signal) = match status {
            WaitStatus::PtraceSyscall(thread) => {
                // Calls are reported twice, when they begin and when they end.
                if !inside.remove(&thread) {
                    inside.insert(thread);
                    if let Ok(call) = call(thread) {
                        begins(main, thread, call);
                    }
                }
                (thread, None)
            }
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
            WaitStatus::PtraceEvent(thread, ..) => (thread, None),
            WaitStatus::Exited(process, exited) => {
                if process == main {
                    code = Some(exited);
                }
                continue;
            }
            _ => continue,
        };
        match ptrace::syscall(thread, signal) {
            // It has ended meanwhile.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => panic!("{error}"),
        }
    }
}
