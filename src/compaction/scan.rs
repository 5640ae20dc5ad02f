//! Looking through storage for partitions with work. Read-only; memory does not grow with the number of objects.
//!
//! One flat LIST per measurement, grouped by hour on the fly. A partition's head is read only where the listing alone
//! cannot say that it is at rest, so an idle cycle costs little more than its LIST pages.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};
use serde::Serialize;

use super::job::{JobEnv, missing_sort_column};
use super::ledger::{Standing, Waits};
use super::observe::{ObserveError, View, observe_from, read_head};
use super::plan::{Decision, Plan, SkipReason};
use super::policy::{self, Situation};
use super::record::Head;
use super::recovery::{NextStep, next_step};
use super::report::{Problem, Skipped};
use super::settings::CompactionSettings;
use super::settle::tidy_plan;
use super::sweep::Extent;
use crate::partition::{FileKind, Generation, Listing, PartitionId};
use crate::storage::{Scanned, StorageError};

/// Partitions that are looked at at the same time during a scan.
const LOOKS_AT_ONCE: usize = 16;

/// Which part of storage to look at. The default is everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    pub database: Option<String>,
    pub measurement: Option<String>,
    /// One partition; everything else is then ignored.
    pub partition: Option<PartitionId>,
    /// Only measurements whose schedule is one of these. `None`: whatever their schedule is, as by hand.
    pub schedules: Option<BTreeSet<String>>,
    /// How far back.
    pub reach: Reach,
}

/// How far back in time a cycle looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Reach {
    /// At every hour. By hand: somebody who has loaded old data wants it found.
    #[default]
    Everything,
    /// At the recent hours, and at everything when that is due; see `compaction::sweep`.
    RecentUnlessDue,
}

impl Scope {
    /// Somebody who names a partition wants it tried, whatever happened there before.
    #[must_use]
    pub fn waits(&self) -> Waits {
        if self.partition.is_some() { Waits::Overridden } else { Waits::Kept }
    }

    /// Whether a complete scan of this scope looks at the partition.
    #[must_use]
    pub fn covers(&self, settings: &CompactionSettings, partition: &PartitionId) -> bool {
        match &self.partition {
            Some(only) => only == partition,
            None => {
                self.database.as_deref().is_none_or(|d| d == partition.database())
                    && self.measurement.as_deref().is_none_or(|m| m == partition.measurement())
                    && self.is_turn_of(settings, partition.database(), partition.measurement())
            }
        }
    }

    /// Whether it may be the turn of some measurement of the database. If not, the database is not even listed.
    fn may_be_turn_of(&self, settings: &CompactionSettings, database: &str) -> bool {
        let due = |schedules: &BTreeSet<String>| settings.schedules_in(database).iter().any(|s| schedules.contains(*s));
        self.schedules.as_ref().is_none_or(due)
    }

    fn is_turn_of(&self, settings: &CompactionSettings, database: &str, measurement: &str) -> bool {
        self.schedules.as_ref().is_none_or(|due| due.contains(settings.schedule_of(database, measurement)))
    }
}

/// A partition with work.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub partition: PartitionId,
    /// The generation of the partition's head when it was looked at.
    pub head_seen: Generation,
    pub work: Work,
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Files to merge.
    Compact(Plan),
    /// Only leftovers of an earlier attempt to clear away, as far as can be seen before that is done.
    Recover,
}

impl Candidate {
    #[must_use]
    pub fn file_count(&self) -> usize {
        match &self.work {
            Work::Compact(plan) => plan.inputs.len(),
            Work::Recover => 0,
        }
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        match &self.work {
            Work::Compact(plan) => plan.input_bytes(),
            Work::Recover => 0,
        }
    }

    /// In the shape that the API and `--json` show.
    #[must_use]
    pub fn to_report(&self) -> CandidateReport {
        let (files, trigger) = match &self.work {
            Work::Compact(plan) => (plan.inputs.iter().map(|f| f.name.clone()).collect(), Some(plan.trigger)),
            Work::Recover => (Vec::new(), None),
        };
        CandidateReport {
            database: self.partition.database().to_owned(),
            measurement: self.partition.measurement().to_owned(),
            partition_path: self.partition.path_in_database(),
            file_count: self.file_count(),
            bytes: self.bytes(),
            trigger,
            unfinished: self.work == Work::Recover,
            files,
        }
    }
}

/// A candidate, as shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CandidateReport {
    pub database: String,
    pub measurement: String,
    /// Relative to the database.
    pub partition_path: String,
    pub file_count: usize,
    pub bytes: u64,
    pub trigger: Option<super::plan::Trigger>,
    /// Leftovers of an earlier attempt are to be cleared away first; what else there is shows then.
    pub unfinished: bool,
    pub files: Vec<String>,
}

/// What a scan says about one place in storage.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    Candidate(Candidate),
    Skipped(Skipped),
    /// This place could not be looked at; the others are not affected.
    Problem(Problem),
    /// A folder that is not an hour of a measurement, or a key of a bucket that is no path. Never touched.
    Unrecognised(String),
}

/// Looks at everything in scope and extent, in the light of what was known when it began.
#[must_use]
pub(super) fn scan(
    env: Arc<JobEnv>,
    scope: Scope,
    extent: Arc<Extent>,
    standing: Arc<Standing>,
    waits: Waits,
) -> BoxStream<'static, Finding> {
    if let Some(partition) = scope.partition.clone() {
        return stream::once(async move {
            match env.storage.list_partition(&partition).await {
                Ok(listing) => look(&env, partition, listing, &standing, waits).await,
                Err(error) => problem(&partition, &error),
            }
        })
        .boxed();
    }
    let (looking, listed) = (Arc::clone(&env), env.storage.clone());
    let revisits = extent.revisits(&env.settings, &scope, &standing);
    places(Arc::clone(&env), scope, extent)
        .chain(stream::iter(revisits).then(move |partition| revisit(Arc::clone(&env), partition)))
        .map(move |found| {
            let (env, standing) = (Arc::clone(&looking), Arc::clone(&standing));
            async move {
                match found {
                    Ok(Scanned::Partition(partition, listing)) => {
                        look(&env, partition, listing, &standing, waits).await
                    }
                    Ok(Scanned::Unrecognised { path }) => Finding::Unrecognised(path),
                    Err(finding) => finding,
                }
            }
        })
        .buffered(LOOKS_AT_ONCE)
        // What the listings left out is known when they are over.
        .chain(stream::once(async move { stream::iter(listed.take_pathless()).map(Finding::Unrecognised) }).flatten())
        .boxed()
}

/// A partition that is not reached by the listings. One that is gone has nothing to be said of.
async fn revisit(env: Arc<JobEnv>, partition: PartitionId) -> Found<Scanned> {
    match env.storage.list_partition(&partition).await {
        Ok(listing) => Ok(Scanned::Partition(partition, listing)),
        Err(error) => Err(problem(&partition, &error)),
    }
}

/// Every hour in scope and extent with what a listing showed in it, one measurement after the other.
pub(super) fn places(env: Arc<JobEnv>, scope: Scope, extent: Arc<Extent>) -> BoxStream<'static, Found<Scanned>> {
    let scope = Arc::new(scope);
    databases(Arc::clone(&env), Arc::clone(&scope))
        .flat_map(move |database| match database {
            Ok(database) => measurements(Arc::clone(&env), database, Arc::clone(&scope), Arc::clone(&extent)),
            Err(finding) => one(Err(finding)),
        })
        .boxed()
}

/// Something found on the way down, or a finding that ends it there.
pub(super) type Found<T> = Result<T, Finding>;

fn one<T: Send + 'static>(item: Found<T>) -> BoxStream<'static, Found<T>> {
    stream::once(async move { item }).boxed()
}

fn databases(env: Arc<JobEnv>, scope: Arc<Scope>) -> BoxStream<'static, Found<String>> {
    stream::once(async move {
        let found = match &scope.database {
            Some(database) => Ok(vec![database.clone()]),
            None => env.storage.databases().await,
        };
        let items: Vec<Found<String>> = match found {
            Err(error) => vec![Err(problem(&env.storage.location(), &error))],
            Ok(mut names) => {
                names.retain(|name| scope.may_be_turn_of(&env.settings, name));
                names.into_iter().map(|name| not_excluded(&env, name)).collect()
            }
        };
        stream::iter(items)
    })
    .flatten()
    .boxed()
}

fn not_excluded(env: &JobEnv, database: String) -> Found<String> {
    if env.settings.exclude_databases.contains(&database) {
        let reason = SkipReason::Excluded { database: database.clone() };
        Err(Finding::Skipped(Skipped { partition_path: database, reason }))
    } else {
        Ok(database)
    }
}

fn measurements(
    env: Arc<JobEnv>,
    database: String,
    scope: Arc<Scope>,
    extent: Arc<Extent>,
) -> BoxStream<'static, Found<Scanned>> {
    stream::once(async move {
        let found = match &scope.measurement {
            Some(measurement) => Ok(vec![measurement.clone()]),
            None => env.storage.measurements(&database).await,
        };
        match found {
            Err(error) => one(Err(problem(&database, &error))),
            Ok(mut names) => {
                names.retain(|name| scope.is_turn_of(&env.settings, &database, name));
                stream::iter(names)
                    .flat_map(move |measurement| hours(&env, &database, measurement, Arc::clone(&extent)))
                    .boxed()
            }
        }
    })
    .flatten()
    .boxed()
}

/// The hours of one measurement, and at the end of all of them a note that this was all.
fn hours(env: &JobEnv, database: &str, measurement: String, extent: Arc<Extent>) -> BoxStream<'static, Found<Scanned>> {
    let since = extent.since(&env.settings, database, &measurement);
    let scanned = env.storage.scan_measurement(database, &measurement, since);
    let database = database.to_owned();
    let state = (scanned, since.is_none());
    stream::unfold(state, move |(mut scanned, whole)| {
        let (database, measurement, extent) = (database.clone(), measurement.clone(), Arc::clone(&extent));
        async move {
            match scanned.next().await {
                Some(Ok(found)) => Some((Ok(found), (scanned, whole))),
                Some(Err(error)) => {
                    Some((Err(problem(&format!("{database}/{measurement}"), &error)), (scanned, false)))
                }
                None => {
                    if whole {
                        extent.listed(&database, &measurement);
                    }
                    None
                }
            }
        }
    })
    .boxed()
}

fn problem(place: &impl ToString, error: &StorageError) -> Finding {
    Finding::Problem(Problem { place: place.to_string(), error: error.to_string() })
}

/// Whether the listing alone shows a partition at rest: one record, and the one file that it made. Such a partition is
/// not read further; it is what almost every partition looks like almost always.
fn at_rest(listing: &Listing) -> bool {
    match (&listing.records[..], &listing.data[..]) {
        ([record], [file]) => file.kind == FileKind::Ours(record.generation),
        _ => false,
    }
}

/// Looks at one partition.
async fn look(env: &JobEnv, partition: PartitionId, listing: Listing, standing: &Standing, waits: Waits) -> Finding {
    let skipped = |reason| Finding::Skipped(Skipped { partition_path: partition.to_string(), reason });
    if env.settings.exclude_databases.iter().any(|d| d == partition.database()) {
        return skipped(SkipReason::Excluded { database: partition.database().to_owned() });
    }
    let known = standing.of(&partition, &listing);
    if at_rest(&listing) && known.quarantined.is_empty() {
        return skipped(SkipReason::NothingToGain { raw_files: 0, compacted_files: 1 });
    }
    let view = if listing.records.is_empty() {
        View { head: Head::none(), listing }
    } else {
        match observe_from(&env.storage, &partition, listing.newest_generation()).await {
            Ok(view) => view,
            Err(ObserveError::Storage(error)) => return problem(&partition, &error),
            Err(error) => {
                return Finding::Problem(Problem { place: partition.to_string(), error: error.to_string() });
            }
        }
    };
    let head_seen = view.head.generation();
    let due = tidy_plan(env, &view);
    match next_step(&view, !due.is_empty()) {
        NextStep::Settled => {}
        NextStep::FailClosed(fault) => {
            // A listing that was under way while somebody committed can show files without their record.
            return match read_head(&env.storage, &partition).await {
                Ok(head) if head != view.head => {
                    Finding::Candidate(Candidate { partition, head_seen: head.generation(), work: Work::Recover })
                }
                Ok(_) => Finding::Problem(Problem { place: partition.to_string(), error: fault.to_string() }),
                Err(error) => Finding::Problem(Problem { place: partition.to_string(), error: error.to_string() }),
            };
        }
        NextStep::Tidy | NextStep::CloseOpenAttempt { .. } => {
            return Finding::Candidate(Candidate { partition, head_seen, work: Work::Recover });
        }
    }
    let settings = env.settings.for_partition(&partition);
    let now = env.clock.now();
    let situation = Situation { partition: &partition, view: &view, held_back: &known.held_back(now), now };
    let plan = match policy::decide(situation, &settings.policy) {
        // Nobody else would ever say that there is a file whose rows no reader sees.
        Decision::Skip(_) if !due.reused.is_empty() => {
            let files: Vec<&str> = due.reused.iter().map(|f| f.name.as_str()).collect();
            let error = format!(
                "{} of the name and size of a consumed file, but another ETag, does not count: if these are new rows, \
                 write them under another name; if it is a copy of the consumed file, delete it",
                files.join(", ")
            );
            return Finding::Problem(Problem { place: partition.to_string(), error });
        }
        Decision::Skip(reason) => return skipped(reason),
        Decision::Compact(plan) => plan,
    };
    // Before any footer is read: a partition that waits costs no more than its listing.
    if let Some(reason) = env.reason_to_wait(&known, &plan, &settings, waits) {
        return skipped(reason);
    }
    match missing_sort_column(&env.storage, &plan, &settings).await {
        Ok(Some(reason)) => skipped(reason),
        Ok(None) => Finding::Candidate(Candidate { partition, head_seen, work: Work::Compact(plan) }),
        Err(error) => Finding::Problem(Problem { place: partition.to_string(), error: error.to_string() }),
    }
}
