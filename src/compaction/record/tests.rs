use super::*;
use crate::compaction::testing::{author, file, head, listing, ours, raw};
use crate::merge::MergedFile;

fn outcome(outputs: &[&str], consumed: &[DataFile]) -> MergeOutcome {
    let output = |name: &&str| MergedFile {
        name: (*name).to_owned(),
        path: "unused".into(),
        size_bytes: 50,
        rows: 5,
        min_time: Some(TimeBound::Text("2025-10-08T14:00:00Z".into())),
        max_time: Some(TimeBound::Integer(7)),
        checksum: "blake3:1".into(),
    };
    MergeOutcome {
        outputs: outputs.iter().map(output).collect(),
        consumed: consumed.iter().map(|f| f.name.clone()).collect(),
        set_aside: Vec::new(),
        rows: 5,
        fingerprint: Some("f".into()),
        slices: 1,
        peak_memory_bytes: 0,
        engine: "duckdb v1".into(),
    }
}

fn names<'a>(files: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
    files.into_iter().map(String::as_str).collect()
}

#[test]
fn a_commit_replaces_its_inputs_by_its_outputs_and_keeps_everything_else() {
    let (kept, joined) = (file(&ours(1, 'a')), file(&ours(2, 'b')));
    let gone = file("gone.parquet");
    let still_there = file("still_there.parquet");
    let before = head(2, &[kept.clone(), joined.clone()], &[gone, still_there.clone()]);
    let late = raw(2);
    let shown = listing([late.clone(), vec![kept.clone(), joined.clone(), still_there]].concat(), [2]);
    let inputs = [late, vec![joined.clone()]].concat();
    let output = ours(3, 'c');

    let record = before.commit(author(), &shown, &inputs, &outcome(&[&output], &inputs));

    assert_eq!(record.generation, Generation(3));
    assert_eq!(names(record.live.iter().map(|f| &f.name)), [kept.name.as_str(), &output]);
    // What the LIST no longer showed is gone for good; what it still showed stays retired.
    assert_eq!(
        names(record.retired.iter().map(|f| &f.name)),
        [joined.name.as_str(), "r000.parquet", "r001.parquet", "still_there.parquet"]
    );
    assert_eq!(record.inputs, Totals { files: 3, size_bytes: 300, rows: 5 });
    assert_eq!(record.outputs, Totals { files: 1, size_bytes: 50, rows: 5 });
}

#[test]
fn a_record_reads_back_as_it_was_written() {
    let inputs = raw(3);
    let record =
        Head::none().commit(author(), &listing(inputs.clone(), []), &inputs, &outcome(&[&ours(1, 'a')], &inputs));
    assert_eq!(Record::parse(&record.to_bytes(), Generation(1)).unwrap(), record);
}

/// A writer uploads a longer file under the name of one that was consumed and deleted long ago: new data, to be consumed
/// like any other. The old entry must go, or the record would name the file twice and never be readable again.
#[test]
fn a_consumed_name_that_was_written_again_with_another_size_is_retired_once() {
    let old = file("upload.parquet");
    let again = DataFile { size_bytes: 200, etag: "another".into(), ..old.clone() };
    let before = head(1, &[], std::slice::from_ref(&old));
    let inputs = [again.clone(), file("z.parquet")];

    let record = before.commit(author(), &listing(inputs.to_vec(), [1]), &inputs, &outcome(&[&ours(2, 'a')], &inputs));

    let read = Record::parse(&record.to_bytes(), Generation(2)).unwrap();
    let kept = read.retired.iter().find(|r| r.name == again.name).unwrap();
    assert_eq!((kept.size_bytes, &kept.etag), (again.size_bytes, &again.etag));
}

#[test]
fn a_void_takes_the_next_generation_and_changes_nothing_that_counts() {
    let live = file(&ours(1, 'a'));
    let still_there = file("still_there.parquet");
    let before = head(1, std::slice::from_ref(&live), &[file("gone.parquet"), still_there.clone()]);
    let record = before.void(author(), &listing(vec![live, still_there], [1]));
    assert_eq!((record.kind, record.generation), (RecordKind::Void, Generation(2)));
    assert_eq!(record.live, before.live());
    assert_eq!(names(record.retired.iter().map(|f| &f.name)), ["still_there.parquet"]);
}

/// R1. T70: an allow list says what counts of ours, so a late upload of an old attempt never does.
#[test]
fn ours_counts_only_if_named_and_others_unless_retired() {
    let (live, unnamed) = (file(&ours(1, 'a')), file(&ours(1, 'b')));
    let (consumed, late) = (file("consumed.parquet"), file("late.parquet"));
    let head = head(1, std::slice::from_ref(&live), std::slice::from_ref(&consumed));
    assert!(head.counts(&live));
    assert!(!head.counts(&unnamed));
    assert!(!head.counts(&consumed));
    assert!(head.counts(&late));
    assert!(head.counts(&DataFile { size_bytes: 101, ..consumed }), "another size is another file");
    assert!(!head.counts(&DataFile { size_bytes: 101, ..live }));
    assert!(!Head::none().counts(&unnamed), "without a record nothing of ours counts");
}

/// T16: a record can name plain files of its partition and nothing else.
#[test]
fn a_record_that_names_anything_but_plain_files_is_refused() {
    let inputs = raw(2);
    let good =
        Head::none().commit(author(), &listing(inputs.clone(), []), &inputs, &outcome(&[&ours(1, 'a')], &inputs));
    for bad in ["../x.parquet", "/etc/passwd", "s3://bucket/x", "", "..", "a/b.parquet", "a\u{0}b"] {
        let mut in_live = good.clone();
        in_live.live[0].name = bad.into();
        let mut in_retired = good.clone();
        in_retired.retired[0].name = bad.into();
        for record in [in_live, in_retired] {
            let refused = Record::parse(&record.to_bytes(), Generation(1)).unwrap_err();
            assert_eq!(refused, RecordError::Name(bad.into()));
        }
    }
}

#[test]
fn a_record_of_another_format_generation_or_shape_is_refused() {
    let inputs = raw(2);
    let good =
        Head::none().commit(author(), &listing(inputs.clone(), []), &inputs, &outcome(&[&ours(1, 'a')], &inputs));
    let generation = Generation(1);
    let other = Record { format: 2, ..good.clone() };
    assert_eq!(Record::parse(&other.to_bytes(), generation), Err(RecordError::Format { found: 2 }));
    assert_eq!(
        Record::parse(&good.to_bytes(), Generation(2)),
        Err(RecordError::Generation { stated: generation, key: Generation(2) })
    );
    let mut twice = good.clone();
    twice.retired.push(twice.retired[0].clone());
    assert_eq!(Record::parse(&twice.to_bytes(), generation), Err(RecordError::Twice("r000.parquet".into())));
    for bytes in [&b""[..], b"{}", b"[]", b"null", &good.to_bytes()[..40]] {
        assert!(matches!(Record::parse(bytes, generation), Err(RecordError::Syntax(_))));
    }
}
