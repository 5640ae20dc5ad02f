//! Which files may be adopted: pure, from a consistent view and the footers of our files in it.
//!
//! An adoption must double no row and make no file dead. Both are shown from what files say about their origin:
//!
//! - **Only files of a generation above the head.** A file of ours at or below the head that the head does not name is
//!   dead, and dead is for ever: somebody who tidies from an older head may delete it at any moment.
//! - **No row twice.** What an adopted file was made from must not be in the partition any more, nor be what another live
//!   file was made from, too. Where a file's own inputs were compacted files that are gone, their inputs are not known;
//!   then everything that could have been among them is a [`Doubt`], to be settled by comparing rows.
//! - **No file dead.** The adoption takes the slots up to the highest adopted generation. Every other file of ours below that
//!   would become dead; if there is one, nothing is adopted.
//!
//! The slots are taken one by one, each by create-if-absent, each record with the same live files. Going straight to the
//! last slot would pass over a record that a job is just creating, and its outputs would be lost.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::compaction::footer::Footer;
use crate::compaction::observe::View;
use crate::partition::{CompactedName, DataFile, FileKind, Generation, PartitionId};

/// Slots that one adoption takes at most. Each is a record; a partition gets one per job.
const MAX_SLOTS: u64 = 10_000;

/// Footers of our files by name, or why they cannot be read.
pub type Footers = BTreeMap<String, Result<Footer, String>>;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Every named file is live, and no slot is left below it.
    Done,
    /// Create a record of the next generation.
    Create(Adoption),
}

/// A record to be created.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Named files that are not live yet. None: only the remaining slots are to be taken.
    pub files: Vec<DataFile>,
    /// The generation at which the adoption is complete.
    pub last: Generation,
    /// Attempts of which parts are gone.
    pub incomplete: Vec<Incomplete>,
    /// What has to be settled by comparing rows first.
    pub doubts: Vec<Doubt>,
}

/// Parts of an attempt are not in storage: their rows are lost, unless they are elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incomplete {
    pub file: String,
    pub parts: u32,
    pub found: u32,
}

/// `file` was made from `ancestor`, which is gone, and any of `suspects` may have been merged into that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// All adopted parts of the attempt.
    pub files: Vec<String>,
    pub ancestor: String,
    pub suspects: Vec<String>,
}

/// Why nothing was adopted, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{file} is not in the partition; `arc verify` shows what is")]
    NotThere { file: String },
    #[error("{file} is not a file of this service: it counts without a record")]
    NotOurs { file: String },
    #[error(
        "{file} is of generation {generation}, which record {head} has decided without it: it is dead and may be deleted at \
         any moment. If its rows are in no other file, copy it to a name without \"_compacted\", and it counts as raw data"
    )]
    Dead { file: String, generation: Generation, head: Generation },
    #[error("{file} cannot be read: {detail}")]
    Unreadable { file: String, detail: String },
    #[error("{file} was made from {input}, which is in the partition too: move {input} out of it, then adopt again")]
    InputPresent { file: String, input: String },
    #[error(
        "{file} was made from {input}, whose rows are in a live file already: move {file} out of the partition instead"
    )]
    InputRetired { file: String, input: String },
    #[error("{one} and {other} were both made from {input}: adopt one, and move the other out of the partition")]
    SharedInput { one: String, other: String, input: String },
    #[error("{other} is another part of the same attempt as {file}: name it as well")]
    PartNotNamed { file: String, other: String },
    #[error(
        "{file} is of generation {generation} and would become dead, and be deleted, when record {last} is created: name it \
         as well, or move it out of the partition"
    )]
    WouldDie { file: String, generation: Generation, last: Generation },
    #[error("{file} is more than {MAX_SLOTS} generations above record {head}: its name was not given by this service")]
    TooFar { file: String, head: Generation },
    #[error(
        "{file} was made from {ancestor}, which is gone, and every row of {suspect} is in it, so {suspect} was probably \
         merged into it: move {suspect} out of the partition, or leave {file} out"
    )]
    Doubled { file: String, ancestor: String, suspect: String },
    #[error(
        "{file} was made from {ancestor}, which is gone, and it cannot be told whether {suspect} was merged into it: move \
         one of them out of the partition"
    )]
    Undecidable { file: String, ancestor: String, suspect: String },
    #[error("{file} changed while it was being read; run the command again")]
    Changed { file: String },
    #[error("{file} holds {found} rows, its footer says {stated}: restore it from a backup")]
    OtherRows { file: String, found: u64, stated: u64 },
}

/// Decides the next step towards the named files being live. `view` shows every live file of its head.
pub fn next_step(
    partition: &PartitionId,
    view: &View,
    named: &BTreeSet<String>,
    footers: &Footers,
) -> Result<Step, Refusal> {
    let files = named.iter().map(|name| find(view, name)).collect::<Result<Vec<_>, _>>()?;
    let head = view.head.generation();
    let (mut fresh, mut last) = (Vec::new(), head);
    for (file, generation) in files {
        last = last.max(generation);
        if view.head.live_file(&file.name).is_none() {
            if generation <= head {
                return Err(Refusal::Dead { file: file.name.clone(), generation, head });
            }
            fresh.push(file);
        }
        if generation.0 - head.0.min(generation.0) > MAX_SLOTS {
            return Err(Refusal::TooFar { file: file.name.clone(), head });
        }
    }
    if fresh.is_empty() && last == head {
        return Ok(Step::Done);
    }
    let kept = Kept::of(partition, view, &fresh, footers)?;
    kept.check_inputs()?;
    kept.check_parts()?;
    kept.check_deaths(last)?;
    let (incomplete, doubts) = (kept.incomplete(), kept.doubts());
    Ok(Step::Create(Adoption { files: fresh.into_iter().cloned().collect(), last, incomplete, doubts }))
}

fn find<'a>(view: &'a View, name: &str) -> Result<(&'a DataFile, Generation), Refusal> {
    let file = view.listing.data.iter().find(|f| f.name == name);
    let file = file.ok_or_else(|| Refusal::NotThere { file: name.to_owned() })?;
    match file.kind {
        FileKind::Ours(generation) => Ok((file, generation)),
        FileKind::Raw | FileKind::CompactedElsewhere => Err(Refusal::NotOurs { file: name.to_owned() }),
    }
}

/// A file of ours that is live, or will be.
struct Origin<'a> {
    file: &'a DataFile,
    name: CompactedName,
    /// Not live before.
    fresh: bool,
    inputs: HashSet<&'a str>,
    parts: u32,
}

impl Origin<'_> {
    fn same_attempt(&self, other: &CompactedName) -> bool {
        (self.name.generation, &self.name.unique) == (other.generation, &other.unique)
    }
}

/// All of ours that are live after the adoption.
struct Kept<'a> {
    partition: &'a PartitionId,
    view: &'a View,
    origins: Vec<Origin<'a>>,
}

impl<'a> Kept<'a> {
    fn of(
        partition: &'a PartitionId,
        view: &'a View,
        fresh: &[&'a DataFile],
        footers: &'a Footers,
    ) -> Result<Self, Refusal> {
        let mut origins = Vec::new();
        for file in &view.listing.data {
            let is_fresh = fresh.iter().any(|f| f.name == file.name);
            let Some(name) = CompactedName::parse(partition, &file.name) else { continue };
            if !is_fresh && view.head.live_file(&file.name).is_none() {
                continue;
            }
            let unreadable = |detail: &str| Refusal::Unreadable { file: file.name.clone(), detail: detail.to_owned() };
            let footer = match footers.get(&file.name) {
                Some(Ok(footer)) => footer,
                Some(Err(detail)) => return Err(unreadable(detail)),
                None => return Err(unreadable("its footer was not read")),
            };
            let lineage = footer.lineage.as_ref().ok_or_else(|| unreadable("its footer names no inputs"))?;
            let inputs = lineage.iter().map(String::as_str).collect();
            origins.push(Origin { file, name, fresh: is_fresh, inputs, parts: footer.parts.unwrap_or(1) });
        }
        Ok(Self { partition, view, origins })
    }

    fn fresh(&self) -> impl Iterator<Item = &Origin<'a>> {
        self.origins.iter().filter(|o| o.fresh)
    }

    fn is_kept(&self, file: &DataFile) -> bool {
        self.origins.iter().any(|o| o.file.name == file.name)
    }

    /// What an adopted file was made from is not here, and nowhere else.
    fn check_inputs(&self) -> Result<(), Refusal> {
        for origin in self.fresh() {
            let file = || origin.file.name.clone();
            for listed in &self.view.listing.data {
                if origin.inputs.contains(listed.name.as_str()) {
                    return Err(Refusal::InputPresent { file: file(), input: listed.name.clone() });
                }
            }
            for retired in self.view.head.retired() {
                if origin.inputs.contains(retired.name.as_str()) {
                    return Err(Refusal::InputRetired { file: file(), input: retired.name.clone() });
                }
            }
            for other in self.origins.iter().filter(|o| !o.same_attempt(&origin.name)) {
                if let Some(input) = origin.inputs.intersection(&other.inputs).min() {
                    let (other, input) = (other.file.name.clone(), (*input).to_owned());
                    return Err(Refusal::SharedInput { one: file(), other, input });
                }
                if other.inputs.contains(origin.file.name.as_str()) {
                    return Err(Refusal::InputPresent { file: other.file.name.clone(), input: file() });
                }
            }
        }
        Ok(())
    }

    /// Every part of an adopted attempt that is in storage is adopted.
    fn check_parts(&self) -> Result<(), Refusal> {
        for origin in self.fresh() {
            let left_out = self.view.listing.data.iter().find(|file| {
                let name = CompactedName::parse(self.partition, &file.name);
                name.is_some_and(|name| origin.same_attempt(&name)) && !self.is_kept(file)
            });
            if let Some(other) = left_out {
                return Err(Refusal::PartNotNamed { file: origin.file.name.clone(), other: other.name.clone() });
            }
        }
        Ok(())
    }

    /// No file of ours loses its slot.
    fn check_deaths(&self, last: Generation) -> Result<(), Refusal> {
        for file in &self.view.listing.data {
            if let FileKind::Ours(generation) = file.kind
                && generation > self.view.head.generation()
                && generation <= last
                && !self.is_kept(file)
            {
                return Err(Refusal::WouldDie { file: file.name.clone(), generation, last });
            }
        }
        Ok(())
    }

    fn incomplete(&self) -> Vec<Incomplete> {
        let mut found: BTreeMap<(Generation, &str), Incomplete> = BTreeMap::new();
        for origin in self.fresh() {
            let same = self.origins.iter().filter(|o| o.same_attempt(&origin.name)).count();
            let same = u32::try_from(same).unwrap_or(u32::MAX);
            if same < origin.parts {
                let incomplete = Incomplete { file: origin.file.name.clone(), parts: origin.parts, found: same };
                found.entry((origin.name.generation, &origin.name.unique)).or_insert(incomplete);
            }
        }
        found.into_values().collect()
    }

    fn doubts(&self) -> Vec<Doubt> {
        let mut doubts: Vec<Doubt> = Vec::new();
        for origin in self.fresh() {
            for &ancestor in &origin.inputs {
                let FileKind::Ours(generation) = FileKind::of(self.partition, ancestor) else { continue };
                let suspects: Vec<String> = self
                    .view
                    .listing
                    .data
                    .iter()
                    .filter(|file| match file.kind {
                        FileKind::Ours(g) => g < generation && self.is_kept(file),
                        FileKind::Raw | FileKind::CompactedElsewhere => self.view.head.counts(file),
                    })
                    .map(|file| file.name.clone())
                    .collect();
                if !suspects.is_empty() {
                    let same = self.origins.iter().filter(|o| o.same_attempt(&origin.name));
                    let files = same.map(|o| o.file.name.clone()).collect();
                    let doubt = Doubt { files, ancestor: ancestor.to_owned(), suspects };
                    if !doubts.contains(&doubt) {
                        doubts.push(doubt);
                    }
                }
            }
        }
        doubts.sort_by(|a, b| (&a.files, &a.ancestor).cmp(&(&b.files, &b.ancestor)));
        doubts
    }
}

/// What to do with files of ours that no record explains: which to adopt, and which to move away first because their rows
/// are in those.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proposal {
    pub adopt: Vec<String>,
    pub move_away: Vec<String>,
}

/// Proposes for `orphans`, newest generation first: the newer file has the rows of the older ones that it was made from.
#[must_use]
pub fn propose(partition: &PartitionId, view: &View, orphans: &[&DataFile], footers: &Footers) -> Proposal {
    let mut newest_first: Vec<(CompactedName, &DataFile)> =
        orphans.iter().filter_map(|f| Some((CompactedName::parse(partition, &f.name)?, *f))).collect();
    newest_first.sort_by(|(a, _), (b, _)| (b.generation, &a.unique, a.part).cmp(&(a.generation, &b.unique, b.part)));
    let lineage = |file: &DataFile| match footers.get(&file.name) {
        Some(Ok(Footer { lineage: Some(inputs), .. })) => Some(inputs),
        _ => None,
    };
    // Input, and the attempt that took it.
    let mut taken: BTreeMap<&str, (Generation, &str)> = BTreeMap::new();
    let mut proposal = Proposal::default();
    for (name, file) in &newest_first {
        let attempt = (name.generation, name.unique.as_str());
        let free = |input: &String| taken.get(input.as_str()).is_none_or(|by| *by == attempt);
        match lineage(file) {
            Some(inputs) if inputs.iter().all(free) && !taken.contains_key(file.name.as_str()) => {
                taken.extend(inputs.iter().map(|input| (input.as_str(), attempt)));
                proposal.adopt.push(file.name.clone());
            }
            _ => proposal.move_away.push(file.name.clone()),
        }
    }
    for file in &view.listing.data {
        if taken.contains_key(file.name.as_str()) && !proposal.move_away.contains(&file.name) {
            proposal.move_away.push(file.name.clone());
        }
    }
    proposal.adopt.sort();
    proposal.move_away.sort();
    proposal
}

#[cfg(test)]
mod tests;
