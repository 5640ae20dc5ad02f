use proptest::prelude::*;

use super::*;

fn span(rows: u64, min: i64, max: i64) -> FileSpan {
    FileSpan { rows, range: Some((min, max)), nulls: Some(0), touched: rows }
}

fn aim(rows: u64) -> SliceAim {
    SliceAim { max_rows: rows, good_rows: rows, min_rows: 1, at_least: 1 }
}

fn admits(range: Range, time: Option<i64>) -> bool {
    match (range, time) {
        (Range::Everything, _) | (Range::Nulls, None) => true,
        (Range::Nulls, Some(_)) | (Range::Between { .. }, None) => false,
        (Range::Between { from, until }, Some(t)) => from.is_none_or(|f| t >= f) && until.is_none_or(|u| t < u),
    }
}

/// Draws a plan: one line per slice, with its bounds, files and expected rows.
fn draw(slices: &[Slice]) -> String {
    let bound = |b: Option<i64>| b.map_or_else(|| "..".to_owned(), |b| b.to_string());
    slices
        .iter()
        .map(|s| match s.range {
            Range::Everything => format!("everything {:?} {}", s.files, s.rows),
            Range::Nulls => format!("nulls {:?} {}", s.files, s.rows),
            Range::Between { from, until } => format!("[{} {}) {:?} {}", bound(from), bound(until), s.files, s.rows),
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn consecutive_files_are_cut_where_they_meet() {
    let files: Vec<FileSpan> = (0..6).map(|i| span(100, i * 1000, i * 1000 + 999)).collect();
    let plan = TimeLine::new(&files).plan(&aim(200));
    assert_eq!(draw(&plan), "[.. 2000) [0, 1] 200\n[2000 4000) [2, 3] 200\n[4000 ..) [4, 5] 200");
}

#[test]
fn a_cut_moves_to_the_start_of_a_near_file() {
    let files = [span(103, 0, 1029), span(97, 1030, 1999)];
    let plan = TimeLine::new(&files).plan(&aim(100));
    assert_eq!(draw(&plan), "[.. 1030) [0] 103\n[1030 ..) [1] 97");
}

#[test]
fn shuffled_files_are_cut_only_as_far_as_memory_demands() {
    let files = vec![span(1000, 0, 9999); 10];
    let line = TimeLine::new(&files);
    let roomy = SliceAim { max_rows: 10_000, good_rows: 1000, min_rows: 1, at_least: 1 };
    assert_eq!(line.plan(&roomy).len(), 1);
    let tight = SliceAim { max_rows: 2500, ..roomy };
    assert_eq!(line.plan(&tight).len(), 4);
}

#[test]
fn rows_of_large_row_groups_are_decoded_in_every_slice_that_they_reach_into() {
    let whole = [span(1000, 0, 9999)];
    let divided = [FileSpan { touched: 100, ..whole[0] }];
    let tight = SliceAim { max_rows: 100, good_rows: 100, min_rows: 1, at_least: 1 };
    let decodes = |files: &[FileSpan]| {
        let line = TimeLine::new(files);
        let plan = line.plan(&tight);
        assert_eq!(plan.len(), 10);
        line.decodes(&plan)
    };
    assert!((decodes(&whole) - 10.0).abs() < 0.01, "{}", decodes(&whole));
    assert!((decodes(&divided) - 1.9).abs() < 0.01, "{}", decodes(&divided));
}

#[test]
fn a_slice_is_divided_into_pieces_of_the_asked_size() {
    let files: Vec<FileSpan> = (0..6).map(|i| span(100, i * 1000, i * 1000 + 999)).collect();
    let line = TimeLine::new(&files);
    let slice = line.plan(&aim(300)).remove(1);
    let parts = line.divide(&slice, 100).unwrap();
    assert_eq!(draw(&parts), "[3000 4000) [3] 100\n[4000 5000) [4] 100\n[5000 ..) [5] 100");
    assert_eq!(line.divide(&slice, 300), None);
    assert_eq!(line.divide(&line.slice(Range::Nulls), 1), None);
}

#[test]
fn small_data_is_one_slice_without_a_filter() {
    let files = [span(10, 0, 9), FileSpan { rows: 3, range: None, nulls: None, touched: 3 }];
    assert_eq!(draw(&TimeLine::new(&files).plan(&aim(1000))), "everything [0, 1] 13");
}

#[test]
fn nulls_form_the_last_slice_and_read_only_files_that_may_have_them() {
    let files = [
        span(100, 0, 99),
        FileSpan { rows: 100, range: Some((100, 199)), nulls: None, touched: 100 },
        FileSpan { rows: 5, range: None, nulls: Some(5), touched: 5 },
    ];
    let plan = TimeLine::new(&files).plan(&aim(110));
    assert_eq!(draw(&plan), "[.. 100) [0] 100\n[100 ..) [1] 100\nnulls [1, 2] 5");
}

#[test]
fn a_file_without_statistics_is_in_every_slice() {
    let files =
        [span(100, 0, 99), span(100, 100, 199), FileSpan { rows: 100, range: None, nulls: Some(0), touched: 100 }];
    let plan = TimeLine::new(&files).plan(&aim(150));
    assert_eq!(draw(&plan), "[.. 100) [0, 2] 150\n[100 ..) [1, 2] 150");
}

#[test]
fn one_instant_cannot_be_cut() {
    let files = vec![span(1000, 7, 7); 3];
    let line = TimeLine::new(&files);
    let plan = line.plan(&aim(100));
    assert_eq!(draw(&plan), "everything [0, 1, 2] 3000");
    assert_eq!(line.split(&plan[0]), None);
}

#[test]
fn cuts_keep_away_from_symbolic_times() {
    let files = [span(100, i64::MIN, i64::MAX), span(10, 0, 1000)];
    for slice in TimeLine::new(&files).plan(&aim(3)) {
        if let Range::Between { from, until } = slice.range {
            assert!([from, until].into_iter().flatten().all(|b| b.unsigned_abs() <= MAX_CUT.unsigned_abs()));
        }
    }
}

#[test]
fn outputs_are_even_and_leave_no_small_rest() {
    let drawn = |sizes: &[u64], target| format!("{:?}", outputs(sizes, target));
    assert_eq!(drawn(&[10; 10], 30), "[0..3, 3..7, 7..10]");
    assert_eq!(drawn(&[10; 10], 1000), "[0..10]");
    assert_eq!(drawn(&[10, 10, 1], 10), "[0..1, 1..3]");
    assert_eq!(drawn(&[5], 1), "[0..1]");
    assert_eq!(drawn(&[100, 1, 1, 1], 50), "[0..1, 1..4]");
}

prop_compose! {
    fn any_span()(rows in 0_u64..5000, a in -3000_i64..3000, w in 0_i64..4000, known in 0..8, nulls in 0..4) -> FileSpan {
        FileSpan {
            rows,
            range: (known > 0).then_some((a, a + w)),
            nulls: match nulls { 0 => None, 1 => Some(rows / 3), 2 if known == 0 => Some(rows), _ => Some(0) },
            touched: rows / 2,
        }
    }
}

proptest! {
    #[test]
    fn every_possible_row_is_in_exactly_one_slice_and_its_file_is_read_there(
        files in prop::collection::vec(any_span(), 0..20),
        max_rows in 1_u64..20_000,
        at_least in 0_usize..9,
        splits in prop::collection::vec(0_usize..50, 0..6),
    ) {
        let line = TimeLine::new(&files);
        let mut plan = line.plan(&SliceAim { max_rows, good_rows: max_rows / 2, min_rows: 500, at_least });
        for at in splits {
            let at = at % plan.len();
            let rows = plan[at].rows / 3 + 1;
            let parts = if at.is_multiple_of(2) { line.split(&plan[at]) } else { line.divide(&plan[at], rows) };
            if let Some(parts) = parts {
                plan.splice(at..=at, parts);
            }
        }
        for (i, file) in files.iter().enumerate().filter(|(_, f)| f.rows > 0) {
            let (min, max) = file.range.unwrap_or((-9000, 9000));
            let times = (0..=60).map(|k| min + (max - min) * k / 60).filter(|_| !file.only_nulls()).map(Some);
            let null = file.may_have_nulls().then_some(None);
            for time in times.chain(null) {
                let home: Vec<&Slice> = plan.iter().filter(|s| admits(s.range, time)).collect();
                prop_assert_eq!(home.len(), 1, "{:?} in {}", time, draw(&plan));
                prop_assert!(home[0].files.contains(&i), "file {} at {:?}: {}", i, time, draw(&plan));
            }
        }
        // Ascending, and adjacent: each slice begins where the one before ends.
        for pair in plan.windows(2) {
            match (pair[0].range, pair[1].range) {
                (Range::Between { from, until: Some(a) }, Range::Between { from: Some(b), .. }) => {
                    prop_assert_eq!(a, b);
                    prop_assert!(from.is_none_or(|from| from < a));
                }
                (Range::Between { until: None, .. }, Range::Nulls) => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn slices_of_ranged_files_are_about_as_large_as_asked(
        files in prop::collection::vec((100_u64..5000, 0_i64..1_000_000, 1000_i64..100_000), 1..30),
        count in 1_u64..20,
    ) {
        let files: Vec<FileSpan> = files.into_iter().map(|(rows, min, w)| span(rows, min, min + w)).collect();
        let total: u64 = files.iter().map(|f| f.rows).sum();
        let max_rows = total.div_ceil(count);
        for slice in TimeLine::new(&files).plan(&aim(max_rows)) {
            prop_assert!(slice.rows <= max_rows + max_rows / 3 + 50, "{} > {}", slice.rows, max_rows);
        }
    }

    #[test]
    fn outputs_cover_all_slices_in_order(sizes in prop::collection::vec(0_u64..1000, 1..50), target in 1_u64..5000) {
        let parts = outputs(&sizes, target);
        prop_assert_eq!(parts.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..sizes.len()).collect::<Vec<_>>());
        prop_assert!(parts.iter().all(|p| !p.is_empty()));
        let total: u64 = sizes.iter().sum();
        prop_assert!(parts.len() as u64 <= (total + target / 2) / target + 1);
    }
}
