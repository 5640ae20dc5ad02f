use super::*;
use crate::compaction::record::Head;
use crate::compaction::testing::{author, file, head, listing, ours, partition, raw, view};
use crate::compaction::tidy;

/// A partition drawn as: files listed, the head, and of what each file of ours was made.
fn decide(shown: &[DataFile], head: &Head, named: &[&str], origins: &[(&str, &[&str])]) -> Result<Step, Refusal> {
    let generations: Vec<u64> = (1..=head.generation().0).collect();
    let shown = view(head.clone(), listing(shown.to_vec(), generations));
    let footer = |inputs: &[&str]| Footer {
        rows: 1,
        columns: Vec::new(),
        lineage: Some(inputs.iter().map(|&i| i.to_owned()).collect()),
        parts: Some(1),
    };
    let footers = origins.iter().map(|(name, inputs)| ((*name).to_owned(), Ok(footer(inputs)))).collect();
    next_step(&partition(), &shown, &named.iter().map(|&n| n.to_owned()).collect(), &footers)
}

#[test]
fn files_above_the_head_with_origins_of_their_own_are_adopted() {
    let (one, three) = (ours(1, 'a'), ours(3, 'b'));
    let shown = [file(&one), file(&three)];
    let step = decide(&shown, &Head::none(), &[&one, &three], &[(&one, &["r"]), (&three, &["s"])]).unwrap();
    let adoption = Adoption { files: shown.to_vec(), last: Generation(3), ..Adoption::default() };
    assert_eq!(step, Step::Create(adoption));
}

/// A slot that is passed over could be the one that a job is taking just now.
#[test]
fn every_slot_up_to_the_highest_adopted_file_is_taken_and_then_it_is_done() {
    let name = ours(3, 'a');
    let live = file(&name);
    for generation in 1..=3 {
        let head = head(generation, std::slice::from_ref(&live), &[]);
        let step = decide(std::slice::from_ref(&live), &head, &[&name], &[(&name, &["r"])]).unwrap();
        let left = Step::Create(Adoption { last: Generation(3), ..Adoption::default() });
        assert_eq!(step, if generation == 3 { Step::Done } else { left });
    }
}

#[test]
fn a_dead_file_stays_dead_and_no_file_dies() {
    let (dead, named, other) = (ours(1, 'd'), ours(3, 'a'), ours(2, 'b'));
    let refused = decide(&[file(&dead)], &head(1, &[], &[]), &[&dead], &[]).unwrap_err();
    assert!(matches!(refused, Refusal::Dead { .. }), "{refused}");
    let shown = [file(&named), file(&other)];
    let refused = decide(&shown, &Head::none(), &[&named], &[(&named, &["r"]), (&other, &["s"])]).unwrap_err();
    assert!(matches!(refused, Refusal::WouldDie { .. }), "{refused}");
}

#[test]
fn no_row_is_adopted_twice() {
    let (a, b) = (ours(1, 'a'), ours(2, 'b'));
    let both = [file(&a), file(&b)];
    let shared = decide(&both, &Head::none(), &[&a, &b], &[(&a, &["r"]), (&b, &["r", "s"])]).unwrap_err();
    assert!(matches!(shared, Refusal::SharedInput { .. }), "{shared}");
    let made_of_the_other = decide(&both, &Head::none(), &[&a, &b], &[(&a, &["r"]), (&b, &[&a])]).unwrap_err();
    assert!(matches!(made_of_the_other, Refusal::InputPresent { .. }), "{made_of_the_other}");
    let beside_its_input = [file(&a), raw(1).remove(0)];
    let present = decide(&beside_its_input, &Head::none(), &[&a], &[(&a, &["r000.parquet"])]).unwrap_err();
    assert!(matches!(present, Refusal::InputPresent { .. }), "{present}");
    let retired = decide(&[file(&b)], &head(1, &[], &raw(1)), &[&b], &[(&b, &["r000.parquet"])]).unwrap_err();
    assert!(matches!(retired, Refusal::InputRetired { .. }), "{retired}");
}

/// Of a file that is gone it is not known what it was made from: anything older, and any raw file.
#[test]
fn a_gone_ancestor_puts_older_files_and_raw_files_in_doubt_and_newer_ones_not() {
    let (named, gone, older, newer) = (ours(5, 'e'), ours(3, 'c'), ours(2, 'b'), ours(4, 'd'));
    let shown = [file(&named), file(&older), file(&newer), raw(1).remove(0)];
    let head = head(4, &[file(&older), file(&newer)], &[]);
    let origins: [(&str, &[&str]); 3] = [(&named, &[&gone]), (&older, &["r"]), (&newer, &["s"])];
    let Step::Create(adoption) = decide(&shown, &head, &[&named], &origins).unwrap() else { panic!("done") };
    let suspects = vec![older.clone(), "r000.parquet".to_owned()];
    assert_eq!(adoption.doubts, [Doubt { files: vec![named.clone()], ancestor: gone.clone(), suspects }]);
}

/// What a tidy may delete after the record is what it might have deleted before.
#[test]
fn an_adoption_gives_a_tidy_nothing_new_to_delete() {
    let (live, dead, named) = (ours(1, 'a'), ours(1, 'd'), ours(2, 'b'));
    let consumed = raw(2);
    let mut data = vec![file(&live), file(&dead), file(&named)];
    data.extend(consumed.clone());
    let before = head(1, &[file(&live)], &consumed[..1]);
    let shown = listing(data, [1]);
    let adopted = crate::compaction::record::LiveFile {
        name: named.clone(),
        size_bytes: 100,
        rows: 1,
        min_time: None,
        max_time: None,
        checksum: "blake3:0".into(),
    };
    let after = Head::of(before.adopt(author(), &shown, &[adopted]), "etag".into());
    assert!(after.counts(&file(&named)) && after.counts(&file(&live)));
    let now = chrono::DateTime::UNIX_EPOCH;
    let plan = |head| tidy::plan(head, &shown, now, chrono::TimeDelta::MAX);
    assert_eq!(plan(&before), plan(&after));
    assert_eq!(plan(&after).dead, [file(&dead)]);
}

#[test]
fn the_newest_files_are_proposed_and_what_they_were_made_from_is_moved_away() {
    let (old, new, side) = (ours(1, 'a'), ours(3, 'c'), ours(2, 'b'));
    let data = vec![file(&old), file(&new), file(&side), raw(1).remove(0)];
    let orphans: Vec<&DataFile> = data[..3].iter().collect();
    let footer = |inputs: &[&str]| {
        let lineage = Some(inputs.iter().map(|&i| i.to_owned()).collect());
        Ok(Footer { rows: 1, columns: Vec::new(), lineage, parts: None })
    };
    let footers = Footers::from([
        (old.clone(), footer(&["x"])),
        (new.clone(), footer(&[&old, "r000.parquet"])),
        (side.clone(), footer(&["y"])),
    ]);
    let shown = view(Head::none(), listing(data.clone(), []));
    let proposal = propose(&partition(), &shown, &orphans, &footers);
    assert_eq!(proposal.adopt, [side, new]);
    assert_eq!(proposal.move_away, [old, "r000.parquet".to_owned()]);
}
