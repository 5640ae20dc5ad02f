//! Outcomes of children: checked before anybody believes them, and completed by what this side knows.

use std::collections::{HashMap, HashSet};
use std::path::Component;

use crate::merge::{MergeOutcome, MergeRequest, SetAside};
use crate::partition::is_plain_file_name;

/// Checks that an outcome is one of this request: every input is accounted for exactly once, and every output is a file of
/// the work folder.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn check(outcome: &MergeOutcome, request: &MergeRequest) -> Result<(), String> {
    check_inputs(outcome, request)?;
    if outcome.outputs.is_empty() {
        return Err("an outcome without outputs".into());
    }
    let mut names = HashSet::new();
    for output in &outcome.outputs {
        let inside = output.path.starts_with(&request.work_dir)
            && !output.path.components().any(|part| part == Component::ParentDir);
        if !inside {
            return Err(format!("output {} lies outside of {}", output.path.display(), request.work_dir.display()));
        }
        if !is_plain_file_name(&output.name) || !output.name.starts_with(&request.output_stem) {
            return Err(format!("output {:?} is not named after {:?}", output.name, request.output_stem));
        }
        if !names.insert(output.name.as_str()) {
            return Err(format!("two outputs named {:?}", output.name));
        }
    }
    let rows: u64 = outcome.outputs.iter().map(|output| output.rows).fold(0, u64::saturating_add);
    if rows != outcome.rows {
        return Err(format!("the outputs have {rows} rows, the outcome says {}", outcome.rows));
    }
    Ok(())
}

fn check_inputs(outcome: &MergeOutcome, request: &MergeRequest) -> Result<(), String> {
    let mut missing: HashSet<&str> = request.inputs.iter().map(|input| input.name.as_str()).collect();
    let accounted = outcome.consumed.iter().chain(outcome.set_aside.iter().map(|aside| &aside.name));
    for name in accounted {
        if !missing.remove(name.as_str()) {
            return Err(format!("input {name:?} was not asked for, or is accounted for twice"));
        }
    }
    match missing.iter().min() {
        Some(name) => Err(format!("input {name:?} is not accounted for, nor are {} others", missing.len() - 1)),
        None => Ok(()),
    }
}

/// Adds files that were set aside before, and brings all of them into the order of the request.
pub(super) fn with_set_aside(
    mut set_aside: Vec<SetAside>,
    more: Vec<SetAside>,
    request: &MergeRequest,
) -> Vec<SetAside> {
    let position: HashMap<&str, usize> =
        request.inputs.iter().enumerate().map(|(index, input)| (input.name.as_str(), index)).collect();
    set_aside.extend(more);
    set_aside.sort_by_key(|aside| position.get(aside.name.as_str()).copied());
    set_aside
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::SetAsideReason;
    use crate::merge::testing::{outcome_of, request};

    fn aside(name: &str) -> SetAside {
        SetAside { name: name.into(), reason: SetAsideReason::Unreadable("x".into()) }
    }

    /// T4, T16.
    #[test]
    fn an_outcome_that_does_not_fit_its_request_is_refused() {
        type Change = fn(&mut MergeOutcome);
        let asked = request(&["a", "b"]);
        let good = outcome_of(&asked);
        assert_eq!(check(&good, &asked), Ok(()));
        let wrong: [(Change, &str); 10] = [
            (|o| drop(o.consumed.pop()), "\"b\" is not accounted for"),
            (|o| o.consumed.push("a".into()), "\"a\" was not asked for, or is"),
            (|o| o.set_aside.push(aside("b")), "\"b\" was not asked for, or is"),
            (|o| o.consumed[0] = "z".into(), "\"z\" was not asked for"),
            (|o| o.outputs.clear(), "without outputs"),
            (|o| o.outputs[0].path = "/etc/passwd".into(), "outside"),
            (|o| o.outputs[0].path = "/job/../etc/passwd".into(), "outside"),
            (|o| o.outputs[0].name = "cpu_20251008_14_g1_9f3a51c2b7d0/../x".into(), "not named after"),
            (|o| o.outputs[0].name = "other_compacted.parquet".into(), "not named after"),
            (|o| o.rows = 4, "3 rows"),
        ];
        for (change, complaint) in wrong {
            let mut outcome = good.clone();
            change(&mut outcome);
            let error = check(&outcome, &asked).unwrap_err();
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn files_set_aside_stand_in_the_order_of_the_request() {
        let asked = request(&["a", "b", "c"]);
        let all = with_set_aside(vec![aside("c"), aside("a")], vec![aside("b")], &asked);
        assert_eq!(all, [aside("a"), aside("b"), aside("c")]);
    }
}
