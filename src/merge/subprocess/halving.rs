//! Finds the files that crash a reader, by reading halves of the set apart from each other. Pure: it says which range to
//! try next and is told what happened.
//!
//! ```text
//! all crash ──> left half?  crashes ──> go on in it, and try the right half as well
//!                           clean   ──> then it must be the right half: go on in that, untried
//! ```
//!
//! One guilty file among *n* takes about log2 *n* trials, at most twice that; *g* of them at most *g* times as many.
//! What must hold: only a file that crashed when it was read alone is found guilty, and the number of trials is bounded.

use std::ops::Range;

/// Most child processes that one search may start. Enough for about seven guilty files among a thousand; what is not
/// examined by then is left for the next job, which starts without those already found.
pub(super) const MAX_TRIALS: u32 = 128;

/// A search over the files `0..n`.
#[derive(Debug)]
pub(super) struct Halving {
    /// The next is the last.
    open: Vec<Suspects>,
    trial: Option<Trial>,
    trials_left: u32,
    guilty: Vec<(usize, String)>,
}

#[derive(Debug, Clone)]
enum Suspects {
    /// Nothing is known.
    Untried(Range<usize>),
    /// Two files or more that crashed, or that must, because their other half did not.
    Crashing(Range<usize>),
}

/// The range that is being tried, and the right half if it is the left half of suspects that crash.
#[derive(Debug)]
struct Trial {
    range: Range<usize>,
    other_half: Option<Range<usize>>,
}

/// What a search found out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Findings {
    /// Files that crash alone, in ascending order, with what was seen.
    pub(super) guilty: Vec<(usize, String)>,
    /// Files that the search did not get to, in ascending order.
    pub(super) unexamined: Vec<usize>,
}

impl Halving {
    pub(super) fn of(files: usize) -> Self {
        let open = if files == 0 { Vec::new() } else { vec![Suspects::Untried(0..files)] };
        Self { open, trial: None, trials_left: MAX_TRIALS, guilty: Vec::new() }
    }

    /// The files to read next, in one process of their own. `None`: the search is over.
    pub(super) fn next_trial(&mut self) -> Option<Range<usize>> {
        debug_assert!(self.trial.is_none(), "each trial gets its answer before the next");
        self.trials_left = self.trials_left.checked_sub(1)?;
        let trial = match self.open.pop()? {
            Suspects::Untried(range) => Trial { range, other_half: None },
            Suspects::Crashing(range) => {
                let middle = range.start + range.len() / 2;
                Trial { range: range.start..middle, other_half: Some(middle..range.end) }
            }
        };
        let range = trial.range.clone();
        self.trial = Some(trial);
        Some(range)
    }

    /// The files of this trial were read without a crash.
    pub(super) fn clean(&mut self) {
        let trial = self.trial.take().expect("an answer follows a trial");
        match trial.other_half {
            // A single file is found guilty by its own crash only, never by inference.
            Some(other) if other.len() == 1 => self.open.push(Suspects::Untried(other)),
            Some(other) => self.open.push(Suspects::Crashing(other)),
            None => {}
        }
    }

    /// Reading the files of this trial crashed, for `reason`.
    pub(super) fn crashed(&mut self, reason: String) {
        let trial = self.trial.take().expect("an answer follows a trial");
        self.open.extend(trial.other_half.map(Suspects::Untried));
        if trial.range.len() == 1 {
            self.guilty.push((trial.range.start, reason));
        } else {
            self.open.push(Suspects::Crashing(trial.range));
        }
    }

    pub(super) fn findings(self) -> Findings {
        let mut guilty = self.guilty;
        guilty.sort_unstable();
        let ranges = self.open.into_iter().map(|suspects| match suspects {
            Suspects::Untried(range) | Suspects::Crashing(range) => range,
        });
        let mut unexamined: Vec<usize> = ranges.flatten().collect();
        unexamined.sort_unstable();
        Findings { guilty, unexamined }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Searches `files` files, of which reading a range crashes as `crashes` says. Returns findings and trials.
    fn search(files: usize, crashes: impl Fn(&Range<usize>) -> bool) -> (Findings, u32) {
        let mut halving = Halving::of(files);
        let mut trials = 0;
        while let Some(range) = halving.next_trial() {
            trials += 1;
            assert!(!range.is_empty());
            if crashes(&range) { halving.crashed(format!("signal {}", range.start)) } else { halving.clean() }
        }
        (halving.findings(), trials)
    }

    fn guilty(findings: &Findings) -> Vec<usize> {
        findings.guilty.iter().map(|(file, _)| *file).collect()
    }

    #[test]
    fn one_guilty_file_among_a_thousand_takes_about_ten_trials_and_at_most_twenty_one() {
        for bad in [0, 1, 499, 500, 998, 999] {
            let (findings, trials) = search(1000, |range| range.contains(&bad));
            assert_eq!(findings, Findings { guilty: vec![(bad, format!("signal {bad}"))], unexamined: vec![] });
            assert!(trials <= 21, "{bad}: {trials}");
        }
    }

    #[test]
    fn a_crash_that_needs_several_files_blames_nobody() {
        let (findings, _) = search(64, |range| range.contains(&3) && range.contains(&60));
        assert_eq!(findings, Findings { guilty: vec![], unexamined: vec![] });
        assert_eq!(search(64, |_| false).1, 1, "when nothing crashes, one trial tells");
        assert_eq!(search(0, |_| true).1, 0);
    }

    #[test]
    fn a_search_that_is_cut_short_tells_what_it_did_not_examine() {
        let (findings, trials) = search(1000, |_| true);
        assert_eq!(trials, MAX_TRIALS);
        assert!(!findings.guilty.is_empty());
        let all: BTreeSet<usize> = guilty(&findings).into_iter().chain(findings.unexamined.iter().copied()).collect();
        assert_eq!(all.len(), 1000);
    }

    proptest! {
        #[test]
        fn few_guilty_files_are_all_found_within_their_bound(
            files in 1_usize..600,
            picks in prop::collection::btree_set(0_usize..600, 0..5),
        ) {
            let bad: Vec<usize> = picks.into_iter().filter(|file| *file < files).collect();
            let (findings, trials) = search(files, |range| bad.iter().any(|file| range.contains(file)));
            prop_assert_eq!(guilty(&findings), bad.clone());
            prop_assert!(findings.unexamined.is_empty());
            let depth = files.next_power_of_two().trailing_zeros() as usize;
            prop_assert!(trials as usize <= 1 + 2 * depth * bad.len(), "{} trials", trials);
        }

        #[test]
        fn whatever_crashes_nobody_innocent_is_blamed(
            files in 1_usize..300,
            bad in prop::collection::btree_set(0_usize..300, 0..300),
        ) {
            let (findings, trials) = search(files, |range| range.clone().any(|file| bad.contains(&file)));
            prop_assert!(trials <= MAX_TRIALS);
            prop_assert!(guilty(&findings).iter().all(|file| bad.contains(file)));
            prop_assert!(findings.unexamined.len() + findings.guilty.len() <= files);
        }
    }
}
