use super::*;
use crate::compaction::record::Head;
use crate::compaction::testing::{file, head, listing, ours, raw, view};

#[test]
fn a_partition_without_leftovers_is_settled() {
    assert_eq!(next_step(&view(Head::none(), listing(raw(3), [])), false), NextStep::Settled);
    let live = file(&ours(1, 'a'));
    assert_eq!(
        next_step(&view(head(1, std::slice::from_ref(&live), &[]), listing(vec![live], [1])), false),
        NextStep::Settled
    );
}

#[test]
fn tidying_comes_before_closing_an_open_attempt() {
    let open = file(&ours(1, 'a'));
    let seen = view(Head::none(), listing([raw(3), vec![open.clone()]].concat(), []));
    assert_eq!(next_step(&seen, true), NextStep::Tidy);
    assert_eq!(next_step(&seen, false), NextStep::CloseOpenAttempt { files: vec![open] });
}

/// T28: a bucket copied without its newest records decides nothing.
#[test]
fn a_generation_gap_fails_closed_even_if_tidying_is_due() {
    let far = file(&ours(3, 'a'));
    let seen = view(head(1, &[], &[]), listing(vec![far.clone()], [1]));
    let fault = Fault::GenerationGap { file: far.name, found: Generation(3), head: Generation(1) };
    for tidy_is_due in [false, true] {
        assert_eq!(next_step(&seen, tidy_is_due), NextStep::FailClosed(fault.clone()));
    }
}

/// V2, T5: outputs are given up only while all their inputs are there.
#[test]
fn an_open_attempt_is_voided_only_if_every_input_is_there_and_counts() {
    let open = file(&ours(2, 'a'));
    let retired = file("retired.parquet");
    let seen = view(
        head(1, &[], std::slice::from_ref(&retired)),
        listing([raw(2), vec![open.clone(), retired]].concat(), [1]),
    );
    let lineage = |inputs: &[&str]| Lineage {
        file: open.name.clone(),
        inputs: Ok(inputs.iter().map(|s| (*s).to_owned()).collect()),
    };
    assert_eq!(may_void(&seen, &[lineage(&["r000.parquet", "r001.parquet"])]), Ok(()));
    for missing in ["r002.parquet", "retired.parquet"] {
        let fault = Fault::InputOfOpenAttemptMissing { file: open.name.clone(), input: missing.into() };
        assert_eq!(may_void(&seen, &[lineage(&["r000.parquet"]), lineage(&["r000.parquet", missing])]), Err(fault));
    }
    let unreadable = Lineage { file: open.name.clone(), inputs: Err("no footer".into()) };
    assert!(matches!(may_void(&seen, &[unreadable]), Err(Fault::NoLineage { .. })));
}
