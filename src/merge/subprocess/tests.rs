//! The parent's side against children that misbehave. The children are shell scripts: test doubles for the worker, real
//! processes for the parent.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tokio::sync::Notify;

use super::*;
use crate::merge::{MergeRequest, SetAsideReason, testing};

/// What every script begins with: reads the request; `outcome` answers that all inputs were consumed; `log` keeps a line
/// for the test; `scan` and `has` ask what the request is.
const PRELUDE: &str = r#"
IFS= read -r request
has() { case "$request" in *"$1"*) return 0;; esac; return 1; }
scan() { has '"task":{"scan"'; }
log() { echo "$@" >> ../log; }
progress() { echo '{"progress":{"step":"merge","done":1,"total":2,"input_bytes_done":3}}'; }
outcome() {
    stem=cpu_20251008_14_g1_9f3a51c2b7d0_compacted.parquet
    names=$(echo "$request" | grep -o '"name":"[^"]*"' | cut -d: -f2 | paste -sd, -)
    echo data > "$stem"
    echo '{"outcome":{"outputs":[{"name":"'$stem'","path":"'"$PWD/$stem"'","size_bytes":5,"rows":1,"min_time":null,'\
'"max_time":null,"checksum":"x"}],"consumed":['"$names"'],"set_aside":[],"rows":1,"fingerprint":null,"slices":1,'\
'"peak_memory_bytes":5,"engine":"fake"}}'
}
"#;

/// A work folder, and a worker that is a script.
struct Bench {
    work: tempfile::TempDir,
    settings: SubprocessSettings,
}

impl Bench {
    fn new(script: &str) -> Self {
        let mut settings = SubprocessSettings::new("/bin/sh".into());
        settings.arguments = vec!["-c".into(), format!("{PRELUDE}{script}").into()];
        settings.memory_poll = Duration::from_millis(5);
        Self { work: tempfile::tempdir().unwrap(), settings }
    }

    fn request(&self, names: &[&str]) -> MergeRequest {
        MergeRequest { work_dir: self.path(""), ..testing::request(names) }
    }

    async fn merge(&self, names: &[&str]) -> Result<MergeOutcome, MergeError> {
        self.merge_with(self.request(names), ProgressSink::ignore(), CancellationToken::new()).await
    }

    async fn merge_with(
        &self,
        request: MergeRequest,
        progress: ProgressSink,
        cancel: CancellationToken,
    ) -> Result<MergeOutcome, MergeError> {
        SubprocessEngine::new(self.settings.clone()).merge(request, progress, cancel).await
    }

    /// The error's text, after checking that the failed attempts left nothing behind.
    async fn error(&self, names: &[&str]) -> String {
        let error = self.merge(names).await.unwrap_err();
        assert_eq!(self.folders(), [""; 0], "after {error}");
        error.to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.work.path().to_path_buf() } else { self.work.path().join(name) }
    }

    fn log(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// The folders of attempts that are left.
    fn folders(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.work.path()).unwrap().map(Result::unwrap);
        let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
        let mut names: Vec<String> = folders.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A sink that tells when the first progress came.
fn progress_signal() -> (ProgressSink, Arc<Notify>) {
    let came = Arc::new(Notify::new());
    let tell = Arc::clone(&came);
    (ProgressSink::new(move |_| tell.notify_one()), came)
}

#[tokio::test]
async fn a_merge_gives_the_childs_outcome_and_progress() {
    let bench = Bench::new("progress; outcome");
    let (progress, came) = progress_signal();
    let outcome = bench.merge_with(bench.request(&["b", "a"]), progress, CancellationToken::new()).await.unwrap();
    came.notified().await;
    assert_eq!(outcome.consumed, ["b", "a"]);
    assert!(outcome.outputs[0].path.starts_with(bench.path("merge-1")));
    assert_eq!(std::fs::read_to_string(&outcome.outputs[0].path).unwrap(), "data\n");
    assert_eq!(bench.folders(), ["merge-1"]);
}

#[tokio::test]
async fn a_work_folder_behind_a_link_is_as_good_as_any() {
    let bench = Bench::new("outcome");
    std::fs::create_dir(bench.path("real")).unwrap();
    std::os::unix::fs::symlink(bench.path("real"), bench.path("link")).unwrap();
    let request = MergeRequest { work_dir: bench.path("link"), ..testing::request(&["a", "b"]) };
    let outcome = bench.merge_with(request, ProgressSink::ignore(), CancellationToken::new()).await.unwrap();
    assert!(outcome.outputs[0].path.is_file());
}

/// T13, T50: nothing in argv, nothing in the environment that the system does not need.
#[tokio::test]
async fn a_child_gets_its_request_on_stdin_and_next_to_no_environment() {
    let mut bench = Bench::new("env | cut -d= -f1 > ../log; outcome");
    let is_passed_on = |name: &std::ffi::OsStr| PASSED_ON.iter().any(|passed| name == *passed);
    #[allow(clippy::disallowed_methods, reason = "to know what must not arrive")]
    let kept_back = std::env::vars_os().filter(|(name, _)| !is_passed_on(name)).count();
    assert!(kept_back > 0, "this process has variables that must not get through");
    let from_this_process = SubprocessSettings::this_program().unwrap();
    assert_eq!(from_this_process.arguments, ["merge-worker"]);
    bench.settings.environment = from_this_process.environment;
    bench.merge(&["a", "b"]).await.unwrap();
    let of_the_shell = ["PWD", "OLDPWD", "SHLVL", "_"];
    for name in bench.log() {
        let of_the_allocator = ALLOCATOR.iter().any(|(known, _)| name == *known);
        assert!(
            PASSED_ON.contains(&name.as_str()) || of_the_allocator || of_the_shell.contains(&name.as_str()),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_child_has_its_own_process_group_and_leaves_no_zombie() {
    let bench = Bench::new("log $$ $(cut -d' ' -f5 /proc/$$/stat); outcome");
    bench.merge(&["a", "b"]).await.unwrap();
    let log = bench.log();
    let (pid, group) = log[0].split_once(' ').unwrap();
    assert_eq!(pid, group);
    assert!(!Path::new("/proc").join(pid).exists());
}

#[tokio::test]
async fn nonsense_is_an_error_and_is_not_tried_again() {
    for (script, complaint) in [
        ("log; echo hello", "spoke nonsense: expected value"),
        ("log; echo '{\"outcome\":{}}'", "spoke nonsense: missing field"),
        ("log; outcome; outcome", "it went on after its answer"),
        ("log; outcome; echo bye", "it went on after its answer"),
        ("log; echo '{\"scanned\":{}}'", "it scanned instead of merging"),
        ("log; tr '\\0' x < /dev/zero", "a line of more than"),
        ("log; cd /; outcome 2>/dev/null", "lies outside of"),
        ("log; request='\"name\":\"a\"'; outcome", "\"b\" is not accounted for"),
    ] {
        let bench = Bench::new(script);
        let error = bench.error(&["a", "b"]).await;
        assert!(error.starts_with("merge worker failed: ") && error.contains(complaint), "{script}: {error}");
        assert_eq!(bench.log().len(), 1, "{script}");
    }
}

#[tokio::test]
async fn an_error_of_the_child_keeps_its_variant_and_is_not_tried_again() {
    let bench = Bench::new(r#"log; echo '{"error":{"kind":"proof_failed","detail":"one row"}}'; exit 1"#);
    let error = bench.merge(&["a", "b"]).await.unwrap_err();
    assert!(matches!(&error, MergeError::ProofFailed(detail) if detail == "one row"), "{error:?}");
    assert_eq!(bench.log().len(), 1);
}

#[tokio::test]
async fn after_a_crash_the_merge_is_tried_once_more_with_smaller_slices_in_a_clean_folder() {
    let bench = Bench::new(
        r#"log $(echo "$request" | grep -o '"memory_bytes":[0-9]*,"threads":[0-9]*,"temp_bytes":null,"means":"[a-z_]*"') $(ls | wc -l)
           touch leftover
           has '"threads":1,' || kill -SEGV $$
           outcome"#,
    );
    let outcome = bench.merge(&["a", "b"]).await.unwrap();
    assert_eq!(outcome.consumed, ["a", "b"]);
    assert_eq!(
        bench.log(),
        [
            r#""memory_bytes":1073741824,"threads":4,"temp_bytes":null,"means":"all" 0"#,
            r#""memory_bytes":268435456,"threads":1,"temp_bytes":null,"means":"duck_db" 0"#
        ]
    );
    assert_eq!(bench.folders(), ["merge-2"]);
}

#[tokio::test]
async fn out_of_memory_as_the_child_reports_it_is_tried_twice_and_blames_no_file() {
    let bench = Bench::new(r#"log; echo '{"error":{"kind":"out_of_memory","detail":"sort","limit_bytes":9}}'"#);
    let error = bench.merge(&["a", "b"]).await.unwrap_err();
    assert!(matches!(error, MergeError::OutOfMemory { limit_bytes: 9, .. }), "{error:?}");
    assert_eq!(bench.log().len(), 2);
}

/// I10, I11: resident memory counts, whatever the engine believes to use.
/// T47.
#[tokio::test]
async fn a_child_beyond_its_memory_ceiling_is_killed() {
    let mut bench = Bench::new(
        r#"if scan; then echo '{"scanned":{}}'; exit; fi
           log; hog=$(head -c 30000000 /dev/zero | tr '\0' x); read -r forever"#,
    );
    bench.settings.memory_headroom_bytes = 16 << 20;
    let mut request = bench.request(&["a", "b"]);
    request.limits.memory_bytes = 1 << 20;
    let error = bench.merge_with(request, ProgressSink::ignore(), CancellationToken::new()).await.unwrap_err();
    let MergeError::OutOfMemory { detail, .. } = error else { panic!("{error:?}") };
    assert!(detail.contains("17825792 allowed"), "{detail}");
    assert_eq!(bench.log().len(), 2, "tried twice");
    assert!(bench.folders().is_empty());
}

#[test]
fn the_memory_ceiling_is_half_as_much_again_and_at_least_the_headroom_more() {
    let settings = SubprocessSettings::new("/bin/sh".into());
    let mib = |n: u64| n << 20;
    assert_eq!(settings.memory_ceiling_bytes(mib(128)), mib(384));
    assert_eq!(settings.memory_ceiling_bytes(mib(1024)), mib(1536));
    assert_eq!(settings.memory_ceiling_bytes(u64::MAX), u64::MAX);
}

#[tokio::test]
async fn a_child_that_somebody_told_to_end_is_not_started_again() {
    let bench = Bench::new("log; kill -TERM $$; read -r never");
    let error = bench.error(&["a", "b"]).await;
    assert!(error.contains("stopped from outside: signal: 15"), "{error}");
    assert_eq!(bench.log().len(), 1);
}

#[tokio::test]
async fn a_crash_that_no_file_explains_is_an_error_with_the_last_words() {
    let bench = Bench::new(
        r#"if scan; then log scan; echo '{"scanned":{}}'; exit; fi
           log merge; echo 'thread panicked at sort.rs' >&2; exit 101"#,
    );
    let error = bench.error(&["a", "b"]).await;
    assert_eq!(error, "merge worker failed: exit status: 101: thread panicked at sort.rs");
    assert_eq!(bench.log(), ["merge", "merge", "scan", "scan"], "one scan of nothing, one of everything");
}

/// A broken installation must not make every file of a partition look damaged.
#[tokio::test]
async fn a_worker_that_crashes_whatever_it_reads_blames_no_file() {
    let bench = Bench::new("log; kill -KILL $$");
    let error = bench.error(&["a", "b"]).await;
    assert_eq!(error, "merge worker failed: it fails even when it has nothing to read: signal: 9 (SIGKILL)");
    assert_eq!(bench.log().len(), 3);
}

/// A worker that crashes as soon as a file with "bad" in its name is among its inputs.
const CRASHES_ON_BAD: &str = r#"
log child
! has bad || kill -SEGV $$
if scan; then echo '{"scanned":{}}'; else outcome; fi
"#;

/// T30, I9.
#[tokio::test]
async fn files_that_crash_the_worker_are_found_and_the_others_are_merged() {
    for bad in [vec![63], vec![0, 40], vec![7, 8, 9]] {
        let bench = Bench::new(CRASHES_ON_BAD);
        let name = |n: usize| if bad.contains(&n) { format!("bad-{n}") } else { format!("good-{n}") };
        let names: Vec<String> = (0..64).map(name).collect();
        let outcome = bench.merge(&names.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();

        let (guilty, good): (Vec<_>, Vec<_>) = names.iter().cloned().partition(|name| name.starts_with("bad"));
        assert_eq!(outcome.consumed, good);
        assert_eq!(outcome.set_aside.iter().map(|aside| aside.name.clone()).collect::<Vec<_>>(), guilty);
        for aside in &outcome.set_aside {
            let reason = "crashed the merge worker: signal: 11 (SIGSEGV)";
            let SetAsideReason::Unreadable(detail) = &aside.reason else { panic!("{aside:?}") };
            assert!(detail.starts_with(reason), "{detail}");
        }
        let most = 2 + 1 + (1 + 2 * 6 * bad.len()) + 1;
        assert!(bench.log().len() <= most, "{} children for {}", bench.log().len(), bad.len());
        assert_eq!(bench.folders(), [format!("merge-{}", bench.log().len())], "only the good attempt is left");
    }
}

#[tokio::test]
async fn when_every_file_crashes_the_worker_there_is_nothing_to_merge() {
    let bench = Bench::new(CRASHES_ON_BAD);
    let error = bench.merge(&["bad-1", "bad-2"]).await.unwrap_err();
    let MergeError::NothingToMerge(set_aside) = error else { panic!("{error:?}") };
    assert_eq!(set_aside.iter().map(|aside| aside.name.as_str()).collect::<Vec<_>>(), ["bad-1", "bad-2"]);
}

#[tokio::test]
async fn a_child_that_hangs_is_killed_at_the_deadline() {
    let mut bench = Bench::new("log $$; exec sleep 1000");
    bench.settings.deadline = Some(Duration::from_millis(300));
    assert_eq!(bench.error(&["a", "b"]).await, "merge worker failed: not done within 0.3 s");
    assert!(!Path::new("/proc").join(&bench.log()[0]).exists(), "it has been waited for");
}

#[tokio::test]
async fn cancelling_tells_the_child_and_leaves_it_time_to_answer() {
    let bench = Bench::new(r#"progress; read -r wish; log "$wish"; echo '{"error":{"kind":"cancelled"}}'"#);
    let (progress, came) = progress_signal();
    let cancel = CancellationToken::new();
    let (result, ()) = tokio::join!(bench.merge_with(bench.request(&["a"]), progress, cancel.clone()), async {
        came.notified().await;
        cancel.cancel();
    });
    assert!(matches!(result, Err(MergeError::Cancelled)), "{result:?}");
    assert_eq!(bench.log(), [r#"{"cancel":true}"#]);
}

#[tokio::test]
async fn a_child_that_does_not_heed_the_cancellation_is_killed_after_the_grace() {
    let mut bench = Bench::new("log $$; progress; exec sleep 1000");
    bench.settings.cancel_grace = Duration::from_millis(20);
    let (progress, came) = progress_signal();
    let cancel = CancellationToken::new();
    let (result, ()) = tokio::join!(bench.merge_with(bench.request(&["a"]), progress, cancel.clone()), async {
        came.notified().await;
        cancel.cancel();
    });
    assert!(matches!(result, Err(MergeError::Cancelled)), "{result:?}");
    assert!(!Path::new("/proc").join(&bench.log()[0]).exists(), "it has been waited for");
}

#[tokio::test]
async fn after_cancellation_no_child_is_started() {
    let bench = Bench::new("log; outcome");
    let cancel = CancellationToken::new();
    cancel.cancel();
    let result = bench.merge_with(bench.request(&["a"]), ProgressSink::ignore(), cancel).await;
    assert!(matches!(result, Err(MergeError::Cancelled)), "{result:?}");
    assert!(bench.log().is_empty());
}

/// T25. The script holds the fifo open, so reading it ends when the child does.
#[tokio::test]
async fn a_child_ends_when_the_merge_is_dropped() {
    let bench = Bench::new("exec 9> ../fifo; progress; exec sleep 1000");
    let fifo = bench.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || std::fs::read(fifo).unwrap());
    let (progress, came) = progress_signal();
    let merge = bench.merge_with(bench.request(&["a"]), progress, CancellationToken::new());
    tokio::select! {
        result = merge => panic!("{result:?}"),
        () = came.notified() => {}
    }
    assert!(ended.await.unwrap().is_empty());
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_an_error_that_names_it() {
    let mut bench = Bench::new("");
    bench.settings.executable = "/no/such/arc".into();
    let error = bench.error(&["a"]).await;
    assert!(error.starts_with("merge worker failed: cannot start /no/such/arc: "), "{error}");
}
