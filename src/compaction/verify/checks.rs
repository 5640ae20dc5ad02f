//! What a partition's records, listing and footers say about each other: pure.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta};

use super::{Evidence, Finding, Kind, Severity};
use crate::compaction::adopt::check::{Proposal, propose};
use crate::compaction::record::LiveFile;
use crate::compaction::recovery::{Fault, Lineage, may_void};
use crate::compaction::tidy;
use crate::merge::TimeBound;
use crate::partition::{CompactedName, DataFile, FileKind, Generation, PartitionId, RECORD_DIR};

/// Names in a sentence before the rest is only counted.
const NAMES_SHOWN: usize = 5;

/// Everything that can be found without reading data.
pub(super) fn judge(evidence: &Evidence<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        evidence.view.head.live().iter().filter_map(|live| live_file(evidence, live)).collect();
    findings.extend(consumed_files_that_count(evidence));
    findings.extend(above_the_head(evidence));
    findings.extend(overlaps(evidence));
    findings.extend(leftovers(evidence));
    findings
}

pub(super) fn unreadable_head(partition: &PartitionId, name: &str, why: &str) -> Finding {
    Finding::in_partition(
        partition,
        (Kind::UnreadableRecord, Severity::Error),
        vec![format!("{RECORD_DIR}/{name}")],
        format!("the newest record cannot be used ({why}), so it is not known which files count; nothing is done here"),
        format!(
            "restore {RECORD_DIR}/{name} from a backup; without one, move it out of the partition and run \
             `arc verify --partition {}`, which then says which files to adopt",
            quoted(partition)
        ),
    )
}

/// What is wrong with one file that counts by record. At most one thing: the first makes the others meaningless.
fn live_file(evidence: &Evidence<'_>, live: &LiveFile) -> Option<Finding> {
    let found = |kind, detail| {
        let remedy = restore(&live.name);
        let severity = Severity::Error;
        Some(Finding::in_partition(evidence.partition, (kind, severity), vec![live.name.clone()], detail, remedy))
    };
    let Some(listed) = listed(evidence, &live.name) else {
        let rows = live.rows;
        return found(Kind::LiveFileMissing, format!("its {rows} rows are in no other file, and nothing is done here"));
    };
    if listed.size_bytes != live.size_bytes {
        let sizes = format!("{} bytes long, {} were recorded", listed.size_bytes, live.size_bytes);
        return found(Kind::LiveFileChanged, format!("{sizes}: it is not the file that was proven"));
    }
    match evidence.footers.get(&live.name) {
        Some(Err(why)) => found(Kind::UnreadableFile, format!("it counts and cannot be read: {why}")),
        Some(Ok(footer)) if footer.rows != live.rows => {
            found(Kind::RowsDiffer, format!("its footer says {} rows, {} were recorded", footer.rows, live.rows))
        }
        _ => None,
    }
}

/// Files that count beside a live file that was made from them.
fn consumed_files_that_count(evidence: &Evidence<'_>) -> Vec<Finding> {
    let mut origins: BTreeMap<&str, &str> = BTreeMap::new();
    for live in evidence.view.head.live() {
        if let Some(Ok(footer)) = evidence.footers.get(&live.name) {
            let inputs = footer.lineage.iter().flatten();
            origins.extend(inputs.map(|input| (input.as_str(), live.name.as_str())));
        }
    }
    let counting = evidence.view.listing.data.iter().filter(|f| evidence.view.head.counts(f));
    let found = counting.filter_map(|file| {
        let output = origins.get(file.name.as_str())?;
        Some(Finding::in_partition(
            evidence.partition,
            (Kind::ConsumedFileCounts, Severity::Error),
            vec![file.name.clone()],
            format!("it was merged into {output}, and it is there again and counts: if it is a copy, its rows count twice"),
            format!(
                "if it was restored from a backup, move {0} out of the partition; if it holds new rows, rename it, because \
                 a writer must not reuse names",
                file.name
            ),
        ))
    });
    found.collect()
}

/// Files of ours that no record has decided about.
fn above_the_head(evidence: &Evidence<'_>) -> Option<Finding> {
    let (view, partition) = (&evidence.view, evidence.partition);
    let head = view.head.generation();
    let above: Vec<(&DataFile, Generation)> = view
        .listing
        .data
        .iter()
        .filter_map(|file| match file.kind {
            FileKind::Ours(generation) if generation > head => Some((file, generation)),
            _ => None,
        })
        .collect();
    let (live, orphans): (Vec<_>, Vec<_>) =
        above.into_iter().partition(|(f, _)| view.head.live_file(&f.name).is_some());
    if !live.is_empty() {
        let files = names(live.iter().map(|(f, _)| *f));
        let detail = "an adoption of these files was interrupted: they count, but nothing else is done here".to_owned();
        let remedy = format!("`{}`", adopt_command(partition, &files));
        let kind = (Kind::UnfinishedAdoption, Severity::Error);
        return Some(Finding::in_partition(partition, kind, files, detail, remedy));
    }
    if orphans.is_empty() {
        return None;
    }
    let orphans_only: Vec<&DataFile> = orphans.iter().map(|(f, _)| *f).collect();
    let files = names(orphans_only.iter().copied());
    let gap = orphans.iter().any(|(_, generation)| *generation > head.next());
    let fault = if gap { None } else { may_void(view, &lineages(evidence, &orphans_only)).err() };
    if !gap && fault.is_none() {
        let detail =
            "an attempt wrote these files and its record is not there (yet); all its inputs still count".to_owned();
        let kind = (Kind::UndecidedAttempt, Severity::Info);
        return Some(Finding::in_partition(partition, kind, files, detail, next_cycle(partition)));
    }
    let (kind, detail) = if view.listing.records.is_empty() {
        let detail =
            "compacted files without any record: was the folder copied or restored without _compaction? It is not \
                      known whether they count, no reader sees their rows, and nothing is done here"
                .to_owned();
        (Kind::RecordsMissing, detail)
    } else if gap {
        let detail = format!(
            "of a generation above {}, the next one: newer records are missing. It is not known whether these files count, \
             and nothing is done here",
            head.next()
        );
        (Kind::GenerationGap, detail)
    } else {
        let why = fault.as_ref().map(Fault::to_string).unwrap_or_default();
        (Kind::UndecidedAttemptWithoutInputs, format!("it may be the only copy of its rows: {why}"))
    };
    let proposal = propose(partition, view, &orphans_only, &evidence.footers);
    let remedy = restore_records_or_adopt(partition, &proposal);
    Some(Finding::in_partition(partition, (kind, Severity::Error), files, detail, remedy))
}

fn lineages(evidence: &Evidence<'_>, files: &[&DataFile]) -> Vec<Lineage> {
    let of = |file: &&DataFile| Lineage {
        file: file.name.clone(),
        inputs: match evidence.footers.get(&file.name) {
            Some(Ok(footer)) => footer.lineage.clone().ok_or_else(|| "its footer names no inputs".to_owned()),
            Some(Err(why)) => Err(why.clone()),
            None => Err("its footer was not read".to_owned()),
        },
    };
    files.iter().map(of).collect()
}

fn restore_records_or_adopt(partition: &PartitionId, proposal: &Proposal) -> String {
    let mut remedy = format!("restore the partition's {RECORD_DIR} folder from a backup; without one, ");
    if !proposal.move_away.is_empty() {
        remedy.push_str("move out of the partition: ");
        remedy.push_str(&proposal.move_away.join(", "));
    }
    let command = adopt_command(partition, &proposal.adopt);
    match (proposal.move_away.is_empty(), proposal.adopt.is_empty()) {
        (_, true) => remedy.push_str(" (unreadable, or of unknown origin)"),
        (true, false) => remedy.extend(["`", &command, "`"]),
        (false, false) => remedy.extend([" (their rows are in the others), then `", &command, "`"]),
    }
    remedy
}

/// Outputs of one attempt, from the same inputs, whose recorded times overlap.
fn overlaps(evidence: &Evidence<'_>) -> Vec<Finding> {
    let mut attempts: BTreeMap<_, Vec<(u32, &LiveFile)>> = BTreeMap::new();
    for live in evidence.view.head.live() {
        let Some(name) = CompactedName::parse(evidence.partition, &live.name) else { continue };
        // Files of one attempt that could not be joined have other inputs; their times may overlap.
        let Some(Ok(footer)) = evidence.footers.get(&live.name) else { continue };
        let Some(lineage) = &footer.lineage else { continue };
        let key = (name.generation, name.unique, lineage.as_slice());
        attempts.entry(key).or_default().push((name.part.unwrap_or(1), live));
    }
    let mut findings = Vec::new();
    for mut parts in attempts.into_values() {
        parts.sort_by_key(|(part, _)| *part);
        for pair in parts.windows(2) {
            let ((_, before), (_, after)) = (pair[0], pair[1]);
            if descends(before.max_time.as_ref(), after.min_time.as_ref()) {
                findings.push(Finding::in_partition(
                    evidence.partition,
                    (Kind::OverlappingOutputs, Severity::Warning),
                    vec![before.name.clone(), after.name.clone()],
                    format!(
                        "{} begins before {} ends; no row is lost or doubled, but readers that rely on disjoint \
                             ranges go wrong",
                        after.name, before.name
                    ),
                    restore_record_and_files(evidence.view.head.generation()),
                ));
            }
        }
    }
    findings
}

fn restore_record_and_files(generation: Generation) -> String {
    let record = crate::partition::RecordEntry::file_name(generation);
    format!("restore both files and {RECORD_DIR}/{record} from a backup; without one, let readers sort")
}

/// Whether `next` is not after `last`. What cannot be compared does not.
fn descends(last: Option<&TimeBound>, next: Option<&TimeBound>) -> bool {
    match (last, next) {
        (Some(TimeBound::Integer(last)), Some(TimeBound::Integer(next))) => next <= last,
        (Some(TimeBound::Text(last)), Some(TimeBound::Text(next))) => {
            match (DateTime::parse_from_rfc3339(last), DateTime::parse_from_rfc3339(next)) {
                (Ok(last), Ok(next)) => next <= last,
                _ => false,
            }
        }
        _ => false,
    }
}

/// What a tidy clears, and what it leaves to a person.
fn leftovers(evidence: &Evidence<'_>) -> Vec<Finding> {
    let (view, partition) = (&evidence.view, evidence.partition);
    // Records are none of its business here, so any time does.
    let due = tidy::plan(&view.head, &view.listing, DateTime::UNIX_EPOCH, TimeDelta::MAX);
    let mut findings = Vec::new();
    let mut found = |kind, files: &[DataFile], detail: &str, remedy: String| {
        if !files.is_empty() {
            let severity = if kind == Kind::ReusedName { Severity::Error } else { Severity::Info };
            let files = names(files.iter());
            findings.push(Finding::in_partition(partition, (kind, severity), files, detail.to_owned(), remedy));
        }
    };
    found(
        Kind::RetiredFile,
        &due.retired,
        "consumed: their rows are in a compacted file, and they count no more",
        next_cycle(partition),
    );
    found(
        Kind::DeadFile,
        &due.dead,
        "written by an attempt that lost or was closed, or consumed: they do not count",
        next_cycle(partition),
    );
    found(
        Kind::ReusedName,
        &due.reused,
        "of the name and size of a consumed file, but not that file: they do not count and are not deleted",
        format!(
            "if restored from a backup, move out of the partition: {}; if they hold new rows, rename them, because a writer \
             must not reuse names",
            shown(&names(due.reused.iter()))
        ),
    );
    findings
}

pub(super) fn restore(name: &str) -> String {
    format!("restore {name} from a backup, under the same name")
}

fn next_cycle(partition: &PartitionId) -> String {
    format!("none needed: the next cycle clears it (at once: `arc compact --partition {}`)", quoted(partition))
}

fn adopt_command(partition: &PartitionId, files: &[String]) -> String {
    let files: Vec<String> = files.iter().map(|f| shell(f)).collect();
    format!("arc adopt {} {}", quoted(partition), files.join(" "))
}

fn quoted(partition: &PartitionId) -> String {
    shell(&partition.to_string())
}

/// A word as a shell takes it.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if !word.starts_with('-') && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

fn names<'a>(files: impl IntoIterator<Item = &'a DataFile>) -> Vec<String> {
    files.into_iter().map(|f| f.name.clone()).collect()
}

fn shown(names: &[String]) -> String {
    let some = names.iter().take(NAMES_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_SHOWN) {
        0 => some,
        more => format!("{some} and {more} more"),
    }
}

pub(super) fn listed<'a>(evidence: &'a Evidence<'_>, name: &str) -> Option<&'a DataFile> {
    evidence.view.listing.data.iter().find(|f| f.name == name)
}
