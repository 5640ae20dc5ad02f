//! Metrics: every name, help text and set of buckets in one table, and a typed method for each thing that is counted.
//!
//! What must hold: things are counted after they happened, by outcome; the callers see to that, and nothing here is
//! counted twice. There is no global recorder, so that two servers in one process do not share their numbers. Memory is
//! bounded: labels that name something an outsider chooses have a limited number of values ([`MAX_DATABASES`],
//! [`MAX_ROUTES`]), after which everything new is counted as [`OTHER`], and samples of histograms are folded into their
//! buckets after every [`SAMPLES_BETWEEN_UPKEEP`], also when nobody ever asks for them.
//!
//! Deliberately not here: what the numbers are taken from.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// Databases that have counters of their own.
pub const MAX_DATABASES: usize = 200;
/// Routes that have counters of their own. A router has fewer; this bounds a caller that passes paths by mistake.
pub const MAX_ROUTES: usize = 100;
/// The value of a label whose own values are used up. A database of this name shares the counters.
pub const OTHER: &str = "other";
/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const SAMPLES_BETWEEN_UPKEEP: u64 = 1024;

/// A job takes from a second to hours.
const JOB_SECONDS: &[f64] = &[0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0];
const STEP_SECONDS: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];
const HTTP_SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// One metric, whatever its labels.
struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
}

enum Kind {
    Counter,
    Gauge,
    /// Upper bounds of the buckets, ascending.
    Histogram(&'static [f64]),
}

impl Family {
    const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, help }
    }

    const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, help }
    }

    const fn histogram(name: &'static str, buckets: &'static [f64], help: &'static str) -> Self {
        Self { name, kind: Kind::Histogram(buckets), help }
    }
}

const JOBS: Family = Family::counter(
    "arc_compaction_jobs_total",
    "Jobs that ended, by status (completed, failed, cancelled) and database.",
);
const JOB_DURATION: Family =
    Family::histogram("arc_compaction_job_duration_seconds", JOB_SECONDS, "Duration of completed jobs.");
const STEP_DURATION: Family = Family::histogram(
    "arc_compaction_step_duration_seconds",
    STEP_SECONDS,
    "Duration of the steps of completed jobs, by step.",
);
const FILES: Family = Family::counter(
    "arc_compaction_files_total",
    "Files of completed jobs, by direction: in (compacted) or out (written).",
);
const BYTES: Family = Family::counter(
    "arc_compaction_bytes_total",
    "Bytes of the files of completed jobs, by direction: in (before) or out (after).",
);
const ROWS: Family = Family::counter("arc_compaction_rows_total", "Rows of completed jobs.");
const ACTIVE_JOBS: Family = Family::gauge("arc_compaction_active_jobs", "Jobs that are running now.");
const BACKLOG_PARTITIONS: Family = Family::gauge(
    "arc_compaction_backlog_partitions",
    "Partitions with work that are not done yet, as of the last complete scan. Absent before the first.",
);
const BACKLOG_BYTES: Family = Family::gauge(
    "arc_compaction_backlog_bytes",
    "Bytes of the files that wait to be compacted, as of the last complete scan. Absent before the first.",
);
const OLDEST_CANDIDATE_AGE: Family = Family::gauge(
    "arc_compaction_oldest_candidate_age_seconds",
    "How long the oldest partition with work has been ready; 0 when none waits. Absent before the first complete scan.",
);
const LAST_SUCCESS: Family = Family::gauge(
    "arc_compaction_last_success_timestamp_seconds",
    "When the last job was completed, in seconds since 1970-01-01 UTC. Absent when none ever was.",
);
const PEAK_MEMORY: Family = Family::gauge(
    "arc_compaction_peak_memory_bytes",
    "Highest resident memory of the merge of any completed job since the start.",
);
const RECOVERIES: Family = Family::counter(
    "arc_compaction_recoveries_total",
    "Partitions in which something that an earlier attempt had left was cleared away, by outcome.",
);
const QUARANTINED_FILES: Family = Family::gauge(
    "arc_compaction_quarantined_files",
    "Files that are left out of compaction because they are damaged.",
);
const LEASE_LOST: Family =
    Family::counter("arc_compaction_lease_lost_total", "Jobs that had to stop because their lease was gone.");
const STORAGE_REQUESTS: Family =
    Family::counter("arc_storage_requests_total", "Requests to storage, by operation and outcome.");
const STORAGE_BYTES: Family = Family::counter(
    "arc_storage_bytes_total",
    "Bytes of objects that went through requests to storage, by direction: read or written.",
);
const HTTP_REQUESTS: Family =
    Family::counter("arc_http_requests_total", "HTTP requests that were answered, by method, route and status.");
const HTTP_DURATION: Family = Family::histogram(
    "arc_http_request_duration_seconds",
    HTTP_SECONDS,
    "Time from the request to the head of its answer, by method and route.",
);

const FAMILIES: [&Family; 19] = [
    &JOBS,
    &JOB_DURATION,
    &STEP_DURATION,
    &FILES,
    &BYTES,
    &ROWS,
    &ACTIVE_JOBS,
    &BACKLOG_PARTITIONS,
    &BACKLOG_BYTES,
    &OLDEST_CANDIDATE_AGE,
    &LAST_SUCCESS,
    &PEAK_MEMORY,
    &RECOVERIES,
    &QUARANTINED_FILES,
    &LEASE_LOST,
    &STORAGE_REQUESTS,
    &STORAGE_BYTES,
    &HTTP_REQUESTS,
    &HTTP_DURATION,
];

static METADATA: Metadata<'static> = Metadata::new("arc", Level::INFO, None);

/// What a completed job did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CompletedJob {
    pub duration_seconds: f64,
    pub files_in: u64,
    pub files_out: u64,
    pub rows: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub peak_memory_bytes: u64,
    /// Seconds since 1970-01-01 UTC.
    pub completed_at: f64,
}

/// The numbers of one service. Clones count into the same ones.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    databases: LabelValues,
    routes: LabelValues,
    samples: AtomicU64,
    peak_memory_bytes: AtomicU64,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let builder = FAMILIES.iter().fold(PrometheusBuilder::new(), |builder, family| match family.kind {
            Kind::Histogram(buckets) => builder
                .set_buckets_for_metric(Matcher::Full(family.name.to_owned()), buckets)
                .expect("every histogram has buckets"),
            Kind::Counter | Kind::Gauge => builder,
        });
        let recorder = builder.build_recorder();
        for family in FAMILIES {
            let (name, help) = (family.name.into(), family.help.into());
            match family.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
            }
        }
        let metrics = Self(Arc::new(Inner {
            handle: recorder.handle(),
            recorder,
            databases: LabelValues::up_to(MAX_DATABASES),
            routes: LabelValues::up_to(MAX_ROUTES),
            samples: AtomicU64::new(0),
            peak_memory_bytes: AtomicU64::new(0),
        }));
        metrics.begin();
        metrics
    }

    /// Counters begin at 0, so that the first increase shows as one; so do the gauges whose value is known.
    fn begin(&self) {
        for direction in ["in", "out"] {
            self.add(&FILES, &[("direction", direction)], 0);
            self.add(&BYTES, &[("direction", direction)], 0);
        }
        for direction in ["read", "written"] {
            self.add(&STORAGE_BYTES, &[("direction", direction)], 0);
        }
        self.add(&ROWS, &[], 0);
        self.add(&LEASE_LOST, &[], 0);
        for family in [&ACTIVE_JOBS, &QUARANTINED_FILES, &PEAK_MEMORY] {
            self.set(family, 0.0);
        }
    }

    /// A job ended. `status` is `completed`, `failed` or `cancelled`.
    pub fn job_ended(&self, status: &'static str, database: &str) {
        let database = self.0.databases.admit(database);
        self.add(&JOBS, &[("status", status), ("database", database)], 1);
    }

    /// What a completed job did, besides [`Metrics::job_ended`].
    pub fn job_completed(&self, job: &CompletedJob) {
        self.sample(&JOB_DURATION, &[], job.duration_seconds);
        self.add(&FILES, &[("direction", "in")], job.files_in);
        self.add(&FILES, &[("direction", "out")], job.files_out);
        self.add(&BYTES, &[("direction", "in")], job.bytes_in);
        self.add(&BYTES, &[("direction", "out")], job.bytes_out);
        self.add(&ROWS, &[], job.rows);
        let before = self.0.peak_memory_bytes.fetch_max(job.peak_memory_bytes, Ordering::Relaxed);
        self.set(&PEAK_MEMORY, float(before.max(job.peak_memory_bytes)));
        self.last_success(job.completed_at);
    }

    /// A step of a completed job.
    pub fn step_duration(&self, step: &'static str, duration: Duration) {
        self.sample(&STEP_DURATION, &[("step", step)], duration.as_secs_f64());
    }

    /// When the last job was completed, in seconds since 1970-01-01 UTC.
    pub fn last_success(&self, timestamp_seconds: f64) {
        self.set(&LAST_SUCCESS, timestamp_seconds);
    }

    pub fn active_jobs(&self, jobs: usize) {
        self.set(&ACTIVE_JOBS, float(jobs as u64));
    }

    /// What the last complete scan left to do. `oldest_age` is zero when nothing waits.
    pub fn backlog(&self, partitions: u64, bytes: u64, oldest_age: Duration) {
        self.set(&BACKLOG_PARTITIONS, float(partitions));
        self.set(&BACKLOG_BYTES, float(bytes));
        self.set(&OLDEST_CANDIDATE_AGE, oldest_age.as_secs_f64());
    }

    /// Something that an earlier attempt had left was cleared away.
    pub fn recovery(&self, outcome: &'static str) {
        self.add(&RECOVERIES, &[("outcome", outcome)], 1);
    }

    pub fn quarantined_files(&self, files: u64) {
        self.set(&QUARANTINED_FILES, float(files));
    }

    pub fn lease_lost(&self) {
        self.add(&LEASE_LOST, &[], 1);
    }

    /// A request to storage was answered.
    pub fn storage_request(&self, operation: &'static str, outcome: &'static str) {
        self.add(&STORAGE_REQUESTS, &[("operation", operation), ("outcome", outcome)], 1);
    }

    pub fn storage_bytes_read(&self, bytes: u64) {
        self.add(&STORAGE_BYTES, &[("direction", "read")], bytes);
    }

    pub fn storage_bytes_written(&self, bytes: u64) {
        self.add(&STORAGE_BYTES, &[("direction", "written")], bytes);
    }

    /// An HTTP request was answered. `route` is the template (`/api/compaction/jobs/{id}`), never the path; a request
    /// that no route matches is `unmatched`.
    pub fn http_request(&self, method: &str, route: &str, status: u16, duration: Duration) {
        const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or(OTHER);
        let route = self.0.routes.admit(route);
        let status = status.to_string();
        self.add(&HTTP_REQUESTS, &[("method", method), ("route", route), ("status", &status)], 1);
        self.sample(&HTTP_DURATION, &[("method", method), ("route", route)], duration.as_secs_f64());
    }

    /// All of it, in Prometheus' text format ([`CONTENT_TYPE`]).
    #[must_use]
    pub fn render(&self) -> String {
        self.0.handle.render()
    }

    fn add(&self, family: &Family, labels: &[(&'static str, &str)], count: u64) {
        self.0.recorder.register_counter(&key(family, labels), &METADATA).increment(count);
    }

    fn set(&self, family: &Family, value: f64) {
        self.0.recorder.register_gauge(&key(family, &[]), &METADATA).set(value);
    }

    fn sample(&self, family: &Family, labels: &[(&'static str, &str)], value: f64) {
        self.0.recorder.register_histogram(&key(family, labels), &METADATA).record(value);
        if self.0.samples.fetch_add(1, Ordering::Relaxed) % SAMPLES_BETWEEN_UPKEEP == SAMPLES_BETWEEN_UPKEEP - 1 {
            self.0.handle.run_upkeep();
        }
    }
}

fn key(family: &Family, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> = labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(family.name, labels)
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus' numbers are floats")]
fn float(number: u64) -> f64 {
    number as f64
}

/// The values that a label has had, up to a limit.
struct LabelValues {
    limit: usize,
    seen: Mutex<BTreeSet<String>>,
}

impl LabelValues {
    fn up_to(limit: usize) -> Self {
        Self { limit, seen: Mutex::default() }
    }

    /// The value to count under: `value` itself, or [`OTHER`] when it is a new one and the limit is reached.
    fn admit<'a>(&self, value: &'a str) -> &'a str {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(value) {
            return value;
        }
        if seen.len() == self.limit {
            return OTHER;
        }
        seen.insert(value.to_owned());
        value
    }
}

#[cfg(test)]
mod tests {
    use prometheus_parse::{Scrape, Value};

    use super::*;

    fn scrape(metrics: &Metrics) -> Scrape {
        Scrape::parse(metrics.render().lines().map(|line| Ok(line.to_owned()))).unwrap()
    }

    fn samples<'a>(scrape: &'a Scrape, family: &Family) -> Vec<&'a prometheus_parse::Sample> {
        scrape.samples.iter().filter(|s| s.metric == family.name).collect()
    }

    fn number(value: &Value) -> f64 {
        match value {
            Value::Counter(n) | Value::Gauge(n) | Value::Untyped(n) => *n,
            other => panic!("not a number: {other:?}"),
        }
    }

    #[test]
    fn names_are_unique_documented_and_follow_prometheus_custom() {
        let names: BTreeSet<&str> = FAMILIES.iter().map(|f| f.name).collect();
        assert_eq!(names.len(), FAMILIES.len());
        for family in FAMILIES {
            assert!(family.name.starts_with("arc_"), "{}", family.name);
            assert_eq!(matches!(family.kind, Kind::Counter), family.name.ends_with("_total"), "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.name);
            if let Kind::Histogram(buckets) = family.kind {
                assert!(family.name.ends_with("_seconds") && buckets.is_sorted());
            }
        }
    }

    #[test]
    fn hostile_label_values_arrive_as_they_were() {
        // prometheus-parse does not undo escapes, so what it gives is the escaped form.
        let metrics = Metrics::new();
        for (database, escaped) in [("a\"b", "a\\\"b"), ("a\\b", "a\\\\b"), ("a\nb", "a\\nb"), ("ü{}=,", "ü{}=,")] {
            metrics.job_ended("completed", database);
            let text = metrics.render();
            let line = format!("arc_compaction_jobs_total{{status=\"completed\",database=\"{escaped}\"}} 1");
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn databases_beyond_the_limit_are_counted_together() {
        let metrics = Metrics::new();
        for number in 0..MAX_DATABASES + 50 {
            metrics.job_ended("completed", &format!("db{number}"));
        }
        metrics.job_ended("failed", "db0");
        let scrape = scrape(&metrics);
        let jobs = samples(&scrape, &JOBS);
        assert_eq!(jobs.len(), MAX_DATABASES + 2);
        let other = jobs.iter().find(|s| s.labels.get("database") == Some(OTHER)).unwrap();
        assert!((number(&other.value) - 50.0).abs() < f64::EPSILON);
    }

    #[test]
    fn routes_beyond_the_limit_and_unknown_methods_are_counted_together() {
        let metrics = Metrics::new();
        for number in 0..MAX_ROUTES * 2 {
            metrics.http_request("BREW", &format!("/{number}"), 404, Duration::from_millis(1));
        }
        let scrape = scrape(&metrics);
        let requests = samples(&scrape, &HTTP_REQUESTS);
        assert_eq!(requests.len(), MAX_ROUTES + 1);
        assert!(requests.iter().all(|s| s.labels.get("method") == Some(OTHER)));
    }

    #[test]
    fn samples_that_nobody_asks_for_are_folded_into_their_buckets() {
        let metrics = Metrics::new();
        for _ in 0..SAMPLES_BETWEEN_UPKEEP * 3 {
            metrics.step_duration("merge", Duration::from_millis(20));
        }
        let scrape = scrape(&metrics);
        let [steps] = samples(&scrape, &STEP_DURATION)[..] else { panic!("one series") };
        let Value::Histogram(buckets) = &steps.value else { panic!("{steps:?}") };
        let counts: Vec<(f64, f64)> = buckets.iter().map(|b| (b.less_than, b.count)).collect();
        let all = float(SAMPLES_BETWEEN_UPKEEP * 3);
        assert_eq!(counts[..2], [(0.01, 0.0), (0.05, all)]);
        assert_eq!(counts.last(), Some(&(f64::INFINITY, all)));
    }

    #[test]
    fn two_services_in_one_process_do_not_share_numbers() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.clone().lease_lost();
        assert!(one.render().contains("arc_compaction_lease_lost_total 1"));
        assert!(other.render().contains("arc_compaction_lease_lost_total 0"));
    }
}
