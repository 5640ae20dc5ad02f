//! What to run to see a failure again: below the message of every test that fails stands one line,
//!
//! ```text
//! to see it again: ARC_ONLY='Late(7)' cargo test --release --test it -- --exact crash_matrix::a_first_... --nocapture
//! ```
//!
//! It is printed by a panic hook, which is in place before `main`, so that no test can forget it: a test's thread has the
//! test's name, with one thread as with many. What a test was asked for by the environment ([`asked`]), and which point of
//! a long loop it is at ([`each`]), stand before the command. A point is gone to at once by `ARC_ONLY`, wherever a loop has
//! points: crashes, defects, damaged files, seeds, rounds.
//!
//! What must hold: the line is the whole of what is needed. What tests draw is drawn from constants and from these variables;
//! a test that reads another variable, or draws from chance, breaks that. And a point that does not exist is a failure, not an
//! empty run.
//!
//! Threads that a test starts have no name of their own. If one fails, its message has no line, and the test that joins it
//! fails with one; threads that know more than the test does are started by [`together`] and [`each_at_once`]. A child
//! process that runs a test function of this binary ([`child`]) says what runs its parent.
//!
//! Not here: the end of the whole process (a signal, an abort), of which nobody in it can say anything. A test that is to
//! panic has its line like any other, in output that nobody sees; what is to be caught is inside of [`silently`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::panic;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

/// What stands before the command.
pub const SAYS: &str = "to see it again: ";

/// Names the one point of a long loop that is to be gone through.
pub const ONLY: &str = "ARC_ONLY";

/// Tells a child process what runs its parent.
const PARENT: &str = "ARC_TEST_PARENT";

/// What a thread knows of its test, beside its name.
#[derive(Debug, Default, Clone)]
struct Here {
    variables: BTreeMap<&'static str, String>,
    silent: bool,
}

thread_local! {
    static HERE: RefCell<Here> = RefCell::default();
}

/// Before `main`, because nothing of a test binary runs between that and the first test.
#[used]
#[allow(unsafe_code, reason = "the section is the one whose functions the system's loader calls")]
#[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array"))]
static INSTALL: extern "C" fn() = install;

extern "C" fn install() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |message| {
        usual(message);
        let is_wanted = !HERE.with_borrow(|here| here.silent);
        if let Some(command) = command().filter(|_| is_wanted) {
            #[allow(clippy::print_stderr, reason = "where the message is, and captured like it")]
            {
                eprintln!("{SAYS}{command}");
            }
        }
    }));
}

/// What runs the test of this thread again, as it is being run. `None`: this thread is no test's.
fn command() -> Option<String> {
    let thread = thread::current();
    let test = thread.name().filter(|name| name.contains("::"))?;
    #[allow(clippy::disallowed_methods, reason = "how a parent test talks to its child")]
    if let Ok(parent) = std::env::var(PARENT) {
        return Some(parent);
    }
    let variables: Vec<String> = HERE
        .with_borrow(|here| here.variables.iter().map(|(name, value)| format!("{name}={} ", quoted(value))).collect());
    let variables = variables.concat();
    let profile = if cfg!(debug_assertions) { "" } else { " --release" };
    let features = if cfg!(feature = "bundled") { "" } else { " --no-default-features" };
    Some(format!("{variables}cargo test{profile}{features} --test it -- --exact {test} --nocapture"))
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/,+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// What somebody who runs the tests asks for by this variable. It is repeated when the test is run again.
pub fn asked(variable: &'static str) -> Option<String> {
    #[allow(clippy::disallowed_methods, reason = "the one place where tests are asked for something")]
    let value = std::env::var(variable).ok()?;
    HERE.with_borrow_mut(|here| here.variables.insert(variable, value.clone()));
    Some(value)
}

/// The same for numbers.
pub fn asked_number(variable: &'static str) -> Option<u64> {
    let text = asked(variable)?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text:?} is not a number")))
}

/// Whether one point is asked for, which says nothing about what all of them have to show together.
pub fn is_one_point() -> bool {
    asked(ONLY).is_some()
}

/// From now on this thread is at a point: what [`ONLY`] has to be to come here at once.
pub fn at(point: &(impl ToString + ?Sized)) -> At {
    let outer = HERE.with_borrow_mut(|here| here.variables.insert(ONLY, point.to_string()));
    At { outer, _stays_on_its_thread: PhantomData }
}

/// Until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct At {
    outer: Option<String>,
    _stays_on_its_thread: PhantomData<*const ()>,
}

impl Drop for At {
    fn drop(&mut self) {
        HERE.with_borrow_mut(|here| match self.outer.take() {
            Some(outer) => here.variables.insert(ONLY, outer),
            None => here.variables.remove(ONLY),
        });
    }
}

/// Goes through the points of a long loop, or through the one of this name that somebody asks for. Names are unique, and no
/// such loop is inside of another.
pub fn each<T>(points: impl IntoIterator<Item = T>, name: impl Fn(&T) -> String) -> impl Iterator<Item = T> {
    let only = asked(ONLY);
    let mut points = points.into_iter();
    let mut here = None;
    let mut is_done = false;
    std::iter::from_fn(move || {
        // Before the next: what was there before it comes back.
        drop(here.take());
        if is_done {
            return None;
        }
        let point = match &only {
            None => points.next()?,
            Some(only) => {
                is_done = true;
                let found = points.find(|point| name(point) == *only);
                found.unwrap_or_else(|| panic!("{ONLY}={only}: there is no such point"))
            }
        };
        here = Some(at(&name(&point)));
        Some(point)
    })
}

/// The same, with so many points under way at a time.
pub fn each_at_once<T: Send>(
    threads: usize,
    points: impl IntoIterator<Item = T>,
    name: impl Fn(&T) -> String + Sync,
    case: impl Fn(T) + Sync,
) {
    let points = Mutex::new(each(points, &name).collect::<Vec<_>>().into_iter());
    let work = || {
        loop {
            let Some(point) = points.lock().unwrap().next() else { return };
            let _here = at(&name(&point));
            case(point);
        }
    };
    together((0..threads).map(|_| &work));
}

/// Runs these at the same time, on threads with the name of this one. The first to panic, in their order, ends the test.
pub fn together<T: Send, F: FnOnce() -> T + Send>(parts: impl IntoIterator<Item = F>) -> Vec<T> {
    let name = thread::current().name().expect("a test's thread has its name").to_owned();
    let here = HERE.with_borrow(Clone::clone);
    thread::scope(|scope| {
        let start = |part: F| {
            let here = here.clone();
            let run = move || {
                HERE.set(here);
                part()
            };
            thread::Builder::new().name(name.clone()).spawn_scoped(scope, run).expect("room for a thread")
        };
        let running: Vec<_> = parts.into_iter().map(start).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|e| panic::resume_unwind(e))).collect()
    })
}

/// What panics in here is caught outside, so nobody has to see it again.
pub fn silently<T>(body: impl FnOnce() -> T) -> T {
    struct Outer(bool);
    impl Drop for Outer {
        fn drop(&mut self) {
            HERE.with_borrow_mut(|here| here.silent = self.0);
        }
    }
    let _outer = Outer(HERE.with_borrow_mut(|here| std::mem::replace(&mut here.silent, true)));
    body()
}

/// This test binary in a process of its own, with one test function selected, which is a part of this test.
pub fn child(function: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", function, "--nocapture"]);
    if let Some(parent) = self::command() {
        command.env(PARENT, parent);
    }
    command
}
