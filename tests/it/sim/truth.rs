//! What must be true of storage at every instant, checked after every change: the invariants by their numbers.
//!
//! The check looks at storage as it is, all at once, like no reader can, and knows every row that was ever written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arc::compaction::record::{Head, Record, RecordKind};
use arc::compaction::{JobReport, JobStatus};
use arc::merge::LINEAGE_INPUTS_KEY;
use arc::partition::{CompactedName, DataFile, FileKind, Generation, PartitionId};
use bytes::Bytes;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::rows::{Row, decode};

/// An object, as it is in storage.
#[derive(Debug, Clone)]
pub struct Object {
    /// Below the partition.
    pub name: String,
    pub etag: String,
    pub bytes: Bytes,
}

/// Everything that a partition's history says about its present.
#[derive(Debug, Default)]
struct Known {
    /// Numbers of the rows that were written there.
    rows: BTreeSet<i64>,
    /// Files that are nobody's to change: damaged ones, and ones of others.
    untouchable: BTreeMap<String, Bytes>,
    /// Every record that was a head.
    heads: BTreeMap<Generation, Record>,
    /// Raw files that somebody removed while they counted, and that are in no output.
    removed: BTreeMap<String, Removed>,
    /// When rows of files that were removed so went, or came back: who was looking by then may see them, or not.
    in_doubt: HashMap<i64, u64>,
    /// Whether an attempt is open of whose inputs somebody removed some, and when that was last so.
    inputs_missing: bool,
    inputs_missing_until: u64,
}

#[derive(Debug)]
struct Removed {
    /// Before or after what callers did, see [`Truth::last`].
    at: u64,
    rows: Vec<i64>,
    bytes: Bytes,
}

/// What happened, counted.
#[derive(Debug, Default, Clone, Copy)]
pub struct Past {
    pub commits: u64,
    pub voids: u64,
    /// Records of jobs that found files of earlier jobs and joined or kept them.
    pub with_live_before: u64,
    pub deletions: u64,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct Truth {
    partitions: BTreeMap<PartitionId, Known>,
    decoded: HashMap<(String, String), Option<Arc<Vec<Row>>>>,
    parsed: Heads,
    /// When a caller last began to list a partition, or last published a file there. What others do is counted along.
    last: HashMap<(String, PartitionId), u64>,
    moment: u64,
    pub past: Past,
    pub broken: Option<String>,
}

/// A key, taken apart.
pub fn place(key: &str) -> Option<(PartitionId, &str)> {
    let (at, _) = key.match_indices('/').nth(5)?;
    Some((key[..at].parse().ok()?, &key[at + 1..]))
}

/// The records and data files of a partition as production code sees them.
pub struct Scene {
    pub head: Head,
    pub data: Vec<(DataFile, Object)>,
    pub records: usize,
    pub foreign: Vec<String>,
}

/// Heads that were parsed before, by the names and tags of their records.
type Heads = HashMap<(String, String), Head>;

impl Scene {
    fn of(partition: &PartitionId, objects: Vec<Object>, heads: &mut Heads) -> Result<Self, String> {
        let mut scene = Self { head: Head::none(), data: Vec::new(), records: 0, foreign: Vec::new() };
        let mut newest: Option<(Generation, Object)> = None;
        for object in objects {
            if let Some(record) = object.name.strip_prefix("_compaction/") {
                let Some(generation) = arc::partition::RecordEntry::parse_file_name(record) else {
                    scene.foreign.push(object.name);
                    continue;
                };
                scene.records += 1;
                if newest.as_ref().is_none_or(|(found, _)| *found < generation) {
                    newest = Some((generation, object));
                }
            } else if object.name.ends_with(".parquet") && !object.name.contains('/') {
                let file = DataFile {
                    name: object.name.clone(),
                    size_bytes: object.bytes.len() as u64,
                    etag: object.etag.clone(),
                    last_modified: chrono::DateTime::UNIX_EPOCH,
                    kind: FileKind::of(partition, &object.name),
                };
                scene.data.push((file, object));
            } else {
                scene.foreign.push(object.name);
            }
        }
        if let Some((generation, object)) = newest {
            let key = (format!("{partition}/{}", object.name), object.etag);
            scene.head = if let Some(head) = heads.get(&key) {
                head.clone()
            } else {
                let record = Record::parse(&object.bytes, generation).map_err(|e| format!("{}: {e}", object.name))?;
                let head = Head::of(record, key.1.clone());
                heads.insert(key, head.clone());
                head
            };
        }
        Ok(scene)
    }

    fn counting(&self) -> impl Iterator<Item = &Object> {
        self.data.iter().filter(|(file, _)| self.head.counts(file)).map(|(_, object)| object)
    }
}

/// Numbers that are missing, and numbers that are there more than once or should not be.
fn compare(expected: &BTreeSet<i64>, mut found: Vec<i64>) -> Option<String> {
    found.sort_unstable();
    let doubled: BTreeSet<i64> = found.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    let found: BTreeSet<i64> = found.into_iter().collect();
    let lost: Vec<_> = expected.difference(&found).collect();
    let invented: Vec<_> = found.difference(expected).collect();
    let right = lost.is_empty() && invented.is_empty() && doubled.is_empty();
    (!right).then(|| format!("lost {lost:?}, doubled {doubled:?}, from nowhere {invented:?}"))
}

/// The names of the inputs that a file of ours says it was made from.
fn inputs_of(file: &Bytes) -> Vec<String> {
    let Ok(file) = SerializedFileReader::new(file.clone()) else { return Vec::new() };
    let stated = file.metadata().file_metadata().key_value_metadata().into_iter().flatten();
    let stated = stated.filter(|pair| pair.key == LINEAGE_INPUTS_KEY).filter_map(|pair| pair.value.as_deref());
    stated.flat_map(|names| serde_json::from_str::<Vec<String>>(names).unwrap()).collect()
}

impl Known {
    /// Removed files that attempts were made from whose outcome is open.
    fn missing_inputs(&self, scene: &Scene) -> Vec<String> {
        let next = FileKind::Ours(scene.head.generation().next());
        let open = scene.data.iter().filter(|(file, _)| file.kind == next);
        let inputs: BTreeSet<String> = open.flat_map(|(_, object)| inputs_of(&object.bytes)).collect();
        inputs.into_iter().filter(|name| self.removed.contains_key(name)).collect()
    }
}

impl Truth {
    /// The first thing that is not as it must be ends the simulation.
    pub fn breaks(&mut self, invariant: &str, what: &str) {
        self.broken.get_or_insert_with(|| format!("{invariant}: {what}"));
    }

    /// Rows that were just written.
    pub fn wrote(&mut self, partition: &PartitionId, rows: &[Row]) {
        self.partitions.entry(partition.clone()).or_default().rows.extend(rows.iter().map(|r| r.number));
    }

    /// A file that must stay as it is.
    pub fn wrote_untouchable(&mut self, partition: &PartitionId, name: &str, bytes: Bytes) {
        self.partitions.entry(partition.clone()).or_default().untouchable.insert(name.to_owned(), bytes);
    }

    /// Files that can be read and that ingestion wrote.
    pub fn sound_raw(&self, partition: &PartitionId, objects: &[Object]) -> Vec<String> {
        let known = self.partitions.get(partition);
        let is_bad = |name: &str| known.is_some_and(|known| known.untouchable.contains_key(name));
        let names = objects.iter().map(|object| &object.name);
        let raw = names.filter(|name| name.ends_with(".parquet") && FileKind::of(partition, name) == FileKind::Raw);
        raw.filter(|name| !is_bad(name)).cloned().collect()
    }

    /// Somebody is about to remove a raw file. If it counts, so far, its rows go with it: gives their number.
    pub fn removed(&mut self, partition: &PartitionId, name: &str, objects: Vec<Object>) -> usize {
        self.moment += 1;
        let Ok(scene) = Scene::of(partition, objects, &mut self.parsed) else { return 0 };
        let Some(object) = scene.counting().find(|object| object.name == name) else { return 0 };
        let rows: Vec<i64> =
            self.decoded(partition, object).iter().flat_map(|rows| rows.iter()).map(|r| r.number).collect();
        let known = self.partitions.entry(partition.clone()).or_default();
        known.rows.retain(|row| !rows.contains(row));
        known.in_doubt.extend(rows.iter().map(|row| (*row, self.moment)));
        let count = rows.len();
        known.removed.insert(name.to_owned(), Removed { at: self.moment, rows, bytes: object.bytes.clone() });
        count
    }

    /// A caller begins to list a prefix.
    pub fn looked(&mut self, caller: &str, prefix: &str) {
        if let Ok(partition) = prefix.parse() {
            self.moment += 1;
            self.last.insert((caller.to_owned(), partition), self.moment);
        }
    }

    /// A caller's object has appeared.
    pub fn published(&mut self, caller: &str, key: &str) {
        if let Some((partition, _)) = place(key).filter(|(_, name)| name.ends_with(".parquet")) {
            self.moment += 1;
            self.last.insert((caller.to_owned(), partition), self.moment);
        }
    }

    /// J4: who commits has looked at its inputs after its last output appeared. Whatever was removed before that is not among
    /// them; whatever was removed later may come back, in the outputs.
    fn bring_back(&mut self, partition: &PartitionId, record: &Record) {
        let caller = record.worker_id.rsplit(':').next().unwrap_or_default().to_owned();
        let looked = self.last.get(&(caller, partition.clone())).copied().unwrap_or_default();
        self.moment += 1;
        let known = self.partitions.entry(partition.clone()).or_default();
        for retired in &record.retired {
            let Some(removed) = known.removed.remove(&retired.name) else { continue };
            known.rows.extend(&removed.rows);
            known.in_doubt.extend(removed.rows.iter().map(|row| (*row, self.moment)));
            if removed.at < looked {
                let what = format!(
                    "{partition}: record {} is made from {}, which was removed before its outputs were there",
                    record.generation, retired.name
                );
                return self.breaks("J4", &what);
            }
        }
    }

    /// Removed files that attempts were made from whose outcome is open.
    pub fn missing_inputs(&mut self, partition: &PartitionId, objects: Vec<Object>) -> Vec<String> {
        let Ok(scene) = Scene::of(partition, objects, &mut self.parsed) else { return Vec::new() };
        self.partitions.get(partition).map(|known| known.missing_inputs(&scene)).unwrap_or_default()
    }

    /// A removed file comes back: its rows count again. Gives its bytes.
    pub fn restored(&mut self, partition: &PartitionId, name: &str) -> Bytes {
        self.moment += 1;
        let known = self.partitions.get_mut(partition).expect("it has missing files");
        let removed = known.removed.remove(name).expect("it is missing");
        known.rows.extend(&removed.rows);
        known.in_doubt.extend(removed.rows.iter().map(|row| (*row, self.moment)));
        removed.bytes
    }

    /// To be remembered by who begins to look.
    pub fn now(&self) -> u64 {
        self.moment
    }

    /// Whether at any time since then an attempt was open of whose inputs somebody had removed some.
    pub fn inputs_missing_since(&self, partition: &PartitionId, began: u64) -> bool {
        let known = self.partitions.get(partition);
        known.is_some_and(|known| known.inputs_missing || known.inputs_missing_until > began)
    }

    /// The numbers of all rows of a partition.
    pub fn rows(&self, partition: &PartitionId) -> BTreeSet<i64> {
        self.partitions.get(partition).map(|known| known.rows.clone()).unwrap_or_default()
    }

    pub fn partitions(&self) -> Vec<PartitionId> {
        self.partitions.keys().cloned().collect()
    }

    fn decoded(&mut self, partition: &PartitionId, object: &Object) -> Option<Arc<Vec<Row>>> {
        let key = (format!("{partition}/{}", object.name), object.etag.clone());
        self.decoded.entry(key).or_insert_with(|| decode(object.bytes.clone()).ok().map(Arc::new)).clone()
    }

    /// I3: only what the newest record gives up may go.
    pub fn judge_deletion(&mut self, key: &str, objects: impl FnOnce(&PartitionId) -> Vec<Object>) {
        let Some((partition, name)) = place(key) else {
            if !key.starts_with("_compaction_staging/") {
                self.breaks("I3", &format!("{key} was deleted"));
            }
            return;
        };
        let scene = match Scene::of(&partition, objects(&partition), &mut self.parsed) {
            Ok(scene) => scene,
            Err(error) => {
                return self.breaks("I3", &format!("{key} was deleted beside a head that is unreadable: {error}"));
            }
        };
        let head = &scene.head;
        let allowed = if let Some(record) = name.strip_prefix("_compaction/") {
            arc::partition::RecordEntry::parse_file_name(record).is_some_and(|found| found < head.generation())
        } else {
            match scene.data.iter().find(|(file, _)| file.name == name) {
                None => true,
                Some((file, _)) => match file.kind {
                    FileKind::Ours(found) => found <= head.generation() && head.live_file(name).is_none(),
                    FileKind::Raw | FileKind::CompactedElsewhere => {
                        head.retired_file(name).is_some_and(|r| r.size_bytes == file.size_bytes && r.etag == file.etag)
                    }
                },
            }
        };
        self.past.deletions += 1;
        if !allowed {
            self.breaks(
                "I3",
                &format!(
                    "{key} was deleted, and the newest record (generation {}) does not give it up",
                    head.generation()
                ),
            );
        }
    }

    /// Everything that must hold of a partition at any instant.
    pub fn check(&mut self, partition: &PartitionId, objects: Vec<Object>) {
        if self.broken.is_some() {
            return;
        }
        let scene = match Scene::of(partition, objects, &mut self.parsed) {
            Ok(scene) => scene,
            Err(error) => return self.breaks("I4", &format!("{partition} cannot be read by anybody: {error}")),
        };
        self.check_head(partition, &scene);
        self.notice_missing_inputs(partition, &scene);
        for live in scene.head.live() {
            let there = scene.data.iter().find(|(file, _)| file.name == live.name);
            if there.is_none_or(|(file, _)| file.size_bytes != live.size_bytes) {
                self.breaks("I4", &format!("{partition}: {} counts, and it is not there as recorded", live.name));
            }
        }
        let mut found = Vec::new();
        for object in scene.counting() {
            if let Some(rows) = self.decoded(partition, object) {
                found.extend(rows.iter().map(|r| r.number));
            }
        }
        let known = self.partitions.entry(partition.clone()).or_default();
        if let Some(difference) = compare(&known.rows, found) {
            self.breaks("I1, I4", &format!("{partition} at generation {}: {difference}", scene.head.generation()));
            return;
        }
        let gone = known.untouchable.iter().find(|(name, bytes)| {
            !scene.data.iter().any(|(_, object)| object.name == **name && object.bytes == **bytes)
        });
        if let Some((name, _)) = gone {
            let what = format!("{partition}: {name} is not as it was");
            self.breaks("I9", &what);
        }
    }

    fn notice_missing_inputs(&mut self, partition: &PartitionId, scene: &Scene) {
        let known = self.partitions.entry(partition.clone()).or_default();
        let missing = !known.removed.is_empty() && !known.missing_inputs(scene).is_empty();
        if missing || known.inputs_missing {
            self.moment += 1;
            known.inputs_missing_until = self.moment;
        }
        known.inputs_missing = missing;
    }

    /// I7, I8: one record for each generation, one after the other, about sorted files.
    fn check_head(&mut self, partition: &PartitionId, scene: &Scene) {
        let Some(record) = scene.head.record() else {
            if self.partitions.get(partition).is_some_and(|known| !known.heads.is_empty()) {
                self.breaks("I3", &format!("{partition}: the records are gone"));
            }
            return;
        };
        let known = self.partitions.entry(partition.clone()).or_default();
        let last = known.heads.last_key_value().map_or(Generation(0), |(generation, _)| *generation);
        if let Some(before) = known.heads.get(&record.generation) {
            if before != record || record.generation != last {
                let what =
                    format!("{partition}: record {} is not the one that it was, or an older one", record.generation);
                self.breaks("I7", &what);
            }
            return;
        }
        known.heads.insert(record.generation, record.clone());
        self.bring_back(partition, record);
        if record.generation != last.next() {
            self.breaks("I7", &format!("{partition}: record {} follows record {last}", record.generation));
        }
        match record.kind {
            RecordKind::Void => self.past.voids += 1,
            RecordKind::Commit => self.past.commits += 1,
            RecordKind::Adopt => self.breaks("I3", &format!("{partition}: nobody asked for an adoption")),
        }
        if record.live.iter().any(|f| CompactedName::parse(partition, &f.name).is_some_and(|n| n.generation <= last)) {
            self.past.with_live_before += 1;
        }
        self.check_order(partition, scene, record);
    }

    /// I8: the files that came with this record.
    fn check_order(&mut self, partition: &PartitionId, scene: &Scene, record: &Record) {
        let mut parts = Vec::new();
        for live in &record.live {
            let Some(name) = CompactedName::parse(partition, &live.name) else {
                return self.breaks("I3", &format!("{partition}: {} is not a name of ours", live.name));
            };
            if name.generation == record.generation
                && let Some((_, object)) = scene.data.iter().find(|(file, _)| file.name == live.name)
            {
                match self.decoded(partition, object) {
                    Some(rows) => parts.push((name.part.unwrap_or(1), rows)),
                    None => return self.breaks("I1", &format!("{partition}: {} counts and is unreadable", live.name)),
                }
            }
        }
        parts.sort_by_key(|(part, _)| *part);
        let times: Vec<i64> = parts.iter().flat_map(|(_, rows)| rows.iter().map(|r| r.time)).collect();
        if !times.is_sorted() {
            self.breaks("I8", &format!("{partition}: the outputs of record {} are not in order", record.generation));
        }
    }

    /// What a reader saw who began when `before` had been written, at that time, and ended when `after` had.
    pub fn check_reader(
        &mut self,
        partition: &PartitionId,
        (began, before): (u64, &BTreeSet<i64>),
        mut seen: Vec<i64>,
    ) {
        seen.sort_unstable();
        let doubled = seen.windows(2).any(|pair| pair[0] == pair[1]);
        let Some(known) = self.partitions.get(partition) else { return };
        // What goes or comes back meanwhile it may see, or not.
        let sure = |row: &i64| known.in_doubt.get(row).is_none_or(|changed| *changed <= began);
        let seen: BTreeSet<i64> = seen.into_iter().filter(sure).collect();
        let lost: Vec<_> = before.difference(&seen).filter(|row| sure(row)).collect();
        let invented: Vec<_> = seen.difference(&known.rows).collect();
        if doubled || !lost.is_empty() || !invented.is_empty() {
            let what = format!(
                "a reader of {partition} saw wrong rows: lost {lost:?}, from nowhere {invented:?}, doubled: {doubled}"
            );
            self.breaks("I4", &what);
        }
    }

    /// T62, T67: a job has happened if its record is there, and says so; only of an unknown outcome it may say either.
    pub fn check_report(&mut self, report: &JobReport) {
        let partition = report.partition().parse().unwrap();
        let heads = self.partitions.get(&partition).map(|known| &known.heads);
        let by_it = |record: &Record| record.kind == RecordKind::Commit && record.job_id == report.job_id;
        let happened = heads.is_some_and(|heads| heads.values().any(by_it));
        let (said, error) = (report.status == JobStatus::Completed, report.error.as_deref().unwrap_or_default());
        if error.contains("internal error") {
            self.breaks("panic", &format!("{} reports {error:?}", report.job_id));
        }
        if said != happened && !error.contains("unknown") {
            self.breaks(
                "T67",
                &format!("{} says {:?}, {error:?}; its record: {happened}", report.job_id, report.status),
            );
        }
    }

    /// I5: what must hold when nothing is left to do.
    pub fn check_rest(&mut self, partition: &PartitionId, objects: Vec<Object>, min_files: usize) {
        let scene = match Scene::of(partition, objects, &mut self.parsed) {
            Ok(scene) => scene,
            Err(error) => return self.breaks("I5", &format!("{partition}: {error}")),
        };
        let bad = self.partitions.get(partition).map(|known| known.untouchable.clone()).unwrap_or_default();
        for (file, _) in &scene.data {
            if !scene.head.counts(file) {
                self.breaks("I5", &format!("{partition}: {} is left over", file.name));
            }
        }
        let sound = scene.data.iter().filter(|(file, _)| file.kind == FileKind::Raw && !bad.contains_key(&file.name));
        let raw = sound.count();
        if raw >= min_files {
            self.breaks("I5", &format!("{partition}: {raw} raw files and {} records", scene.records));
        }
        if scene.records > 1 {
            self.breaks("I5", &format!("{partition}: {} records are left", scene.records));
        }
        if !scene.foreign.is_empty() {
            self.breaks("I5", &format!("{partition}: {:?} are left", scene.foreign));
        }
    }
}
