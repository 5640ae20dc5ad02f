//! Reading everything: bytes against checksums, rows against fingerprints, order against what the file declares.

use std::collections::BTreeSet;

use tokio_util::sync::CancellationToken;

use super::checks::{listed, restore};
use super::{Evidence, Finding, Kind, Severity};
use crate::compaction::adopt::by_attempt;
use crate::compaction::error::JobError;
use crate::compaction::footer::{self, FooterError};
use crate::compaction::job::JobEnv;
use crate::compaction::record::{Record, RecordKind};
use crate::compaction::scratch::Scratch;
use crate::merge::recheck::{Look, Rechecked};
use crate::partition::{DataFile, FileKind, Generation, RECORD_DIR};
use crate::storage::StorageError;

/// What a job proved, from its record.
struct Proof {
    generation: Generation,
    fingerprint: String,
    engine: String,
    files: u64,
    rows: u64,
}

/// Checks the content of what counts. Files in `known` have a finding already and are left out.
pub(super) async fn judge(
    env: &JobEnv,
    evidence: &Evidence<'_>,
    known: &[Finding],
    id: &str,
) -> Result<Vec<Finding>, JobError> {
    let (proofs, mut findings) = records(env, evidence).await?;
    let known: BTreeSet<&str> = known
        .iter()
        .filter(|f| f.kind != Kind::OverlappingOutputs)
        .flat_map(|f| f.files.iter().map(String::as_str))
        .collect();
    let mut sound = Vec::new();
    for live in evidence.view.head.live().iter().filter(|live| !known.contains(live.name.as_str())) {
        let Some(file) = listed(evidence, &live.name) else { continue };
        let read = env.storage.read_back(evidence.partition, &live.name).await;
        let checksum = read.map_err(|source| JobError::Storage { step: "read back", source })?.checksum;
        if checksum == live.checksum {
            sound.push(file);
        } else {
            let detail = format!("its bytes have the checksum {checksum}, recorded was {}", live.checksum);
            findings.push(about(evidence, Kind::ChecksumMismatch, &live.name, detail, restore(&live.name)));
        }
    }
    if !sound.is_empty() {
        let mut scratch = Scratch::create(env, evidence.partition, id)?;
        for attempt in by_attempt(evidence.partition, sound) {
            let local = scratch.fetch(&attempt).await?;
            let seen = scratch.look(move |r| r.content(&local, &CancellationToken::new())).await?;
            findings.extend(content(evidence, &attempt, &seen, &proofs));
        }
    }
    findings.extend(raw_files(env, evidence, &known).await?);
    Ok(findings)
}

fn about(evidence: &Evidence<'_>, kind: Kind, file: &str, detail: String, remedy: String) -> Finding {
    let severity = if kind == Kind::UnsortedOutput { Severity::Warning } else { Severity::Error };
    Finding::in_partition(evidence.partition, (kind, severity), vec![file.to_owned()], detail, remedy)
}

/// What the rows of one attempt's files say. Pure.
fn content(evidence: &Evidence<'_>, attempt: &[&DataFile], seen: &Rechecked, proofs: &[Proof]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut rows = 0;
    for (file, look) in attempt.iter().zip(&seen.looks) {
        let name = &file.name;
        let recorded = evidence.view.head.live_file(name).map_or(0, |live| live.rows);
        match look {
            Look::NotExamined(why) => {
                let detail = format!("it counts and its rows were not looked at: {why}");
                let remedy = "do what the message says, then check again".to_owned();
                findings.push(about(evidence, Kind::Unchecked, name, detail, remedy));
            }
            Look::Unreadable(why) => {
                let detail = format!("it counts and its rows cannot be read: {why}");
                findings.push(about(evidence, Kind::UnreadableFile, name, detail, restore(name)));
            }
            Look::Read(content) if content.rows != recorded => {
                let detail = format!("it holds {} rows, {recorded} were recorded", content.rows);
                findings.push(about(evidence, Kind::RowsDiffer, name, detail, restore(name)));
            }
            Look::Read(content) => {
                rows += content.rows;
                if let Some(steps) = content.steps_back.filter(|&steps| steps > 0) {
                    let detail = format!(
                        "{steps} rows come before the one above them in the order that the file declares; no row is lost or \
                         doubled, but readers that rely on the order go wrong"
                    );
                    let record = evidence.view.head.generation();
                    let record = crate::partition::RecordEntry::file_name(record);
                    let remedy = format!(
                        "restore {name} and {RECORD_DIR}/{record} from a backup; without one, let readers sort"
                    );
                    findings.push(about(evidence, Kind::UnsortedOutput, name, detail, remedy));
                }
            }
        }
    }
    let Some(FileKind::Ours(generation)) = attempt.first().map(|f| f.kind.clone()) else { return findings };
    let proof = proofs.iter().find(|p| p.generation == generation);
    if let (Some(proof), Some(found)) = (proof, &seen.fingerprint)
        && (proof.files, proof.rows) == (attempt.len() as u64, rows)
        && proof.engine == seen.engine
        && proof.fingerprint != *found
    {
        let files: Vec<String> = attempt.iter().map(|f| f.name.clone()).collect();
        let detail = format!(
            "the rows have the fingerprint {found}, the job's record {generation} says that {} was proven: files or record \
             were changed afterwards",
            proof.fingerprint
        );
        let record = crate::partition::RecordEntry::file_name(generation);
        let remedy = format!("restore {} and {RECORD_DIR}/{record} from a backup", files.join(", "));
        let kind = (Kind::FingerprintMismatch, Severity::Error);
        findings.push(Finding::in_partition(evidence.partition, kind, files, detail, remedy));
    }
    findings
}

/// What the records that are still there prove, and those that cannot be used. The head was read before.
async fn records(env: &JobEnv, evidence: &Evidence<'_>) -> Result<(Vec<Proof>, Vec<Finding>), JobError> {
    let (mut proofs, mut findings) = (Vec::new(), Vec::new());
    for entry in &evidence.view.listing.records {
        let fetched = match env.storage.get_record(evidence.partition, &entry.name).await {
            Ok(fetched) => fetched,
            // An old one may go at any time.
            Err(StorageError::NotFound { .. }) => continue,
            Err(source) => return Err(JobError::Storage { step: "read record", source }),
        };
        match Record::parse(&fetched.bytes, entry.generation) {
            Ok(record) => proofs.extend(proof(record)),
            Err(why) => {
                let name = format!("{RECORD_DIR}/{}", entry.name);
                let detail =
                    format!("an old record cannot be used: {why}; a newer one decides, so nothing depends on it");
                let remedy = "none needed: it is deleted in its time".to_owned();
                let kind = (Kind::UnreadableRecord, Severity::Info);
                findings.push(Finding::in_partition(evidence.partition, kind, vec![name], detail, remedy));
            }
        }
    }
    Ok((proofs, findings))
}

fn proof(record: Record) -> Option<Proof> {
    (record.kind == RecordKind::Commit).then_some(())?;
    Some(Proof {
        generation: record.generation,
        fingerprint: record.fingerprint?,
        engine: record.engine?,
        files: record.outputs.files,
        rows: record.outputs.rows,
    })
}

/// Files of others that count and cannot be read. They are never deleted and keep nobody from being compacted.
async fn raw_files(env: &JobEnv, evidence: &Evidence<'_>, known: &BTreeSet<&str>) -> Result<Vec<Finding>, JobError> {
    let mut findings = Vec::new();
    for file in &evidence.view.listing.data {
        let ours = matches!(file.kind, FileKind::Ours(_));
        if ours || !evidence.view.head.counts(file) || known.contains(file.name.as_str()) {
            continue;
        }
        match footer::read(&env.storage, evidence.partition, &file.name, file.size_bytes).await {
            Ok(_) | Err(FooterError::Storage(StorageError::NotFound { .. })) => {}
            Err(FooterError::Unreadable { detail, .. }) => {
                let kind = (Kind::UnreadableFile, Severity::Warning);
                let files = vec![file.name.clone()];
                let detail = format!("{detail}; it stays where it is, and the others are compacted without it");
                let remedy = format!(
                    "have its writer write the rows again, or restore them from a backup; then move {} out of the partition",
                    file.name
                );
                findings.push(Finding::in_partition(evidence.partition, kind, files, detail, remedy));
            }
            Err(FooterError::Storage(source)) => return Err(JobError::Storage { step: "read footer", source }),
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compaction::adopt::check::Footers;
    use crate::compaction::testing::{file, head, listing, ours, partition, view};
    use crate::merge::recheck::Content;

    /// Nobody may take it for proven, and nothing is said of rows that nobody has seen.
    #[test]
    fn a_file_whose_rows_were_not_read_is_named() {
        let files = [file(&ours(1, 'a')), file(&ours(1, 'b'))];
        let shown = view(head(1, &files, &[]), listing(files.to_vec(), [1]));
        let partition = partition();
        let evidence = Evidence { partition: &partition, view: shown, footers: Footers::new() };
        let read = Content { rows: 1, min_time: None, max_time: None, steps_back: Some(0) };
        let unread = "what is kept of its columns takes too much";
        let seen = Rechecked {
            looks: vec![Look::Read(read), Look::NotExamined(unread.to_owned())],
            fingerprint: None,
            engine: "engine".to_owned(),
        };
        let proof = Proof {
            generation: Generation(1),
            fingerprint: "of both".to_owned(),
            engine: "engine".to_owned(),
            files: 2,
            rows: 2,
        };
        let findings = content(&evidence, &files.iter().collect::<Vec<_>>(), &seen, &[proof]);
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!((finding.kind, &finding.files[..]), (Kind::Unchecked, &[files[1].name.clone()][..]));
        assert!(finding.detail.contains(unread), "{}", finding.detail);
    }
}
