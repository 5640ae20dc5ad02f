//! I9, I10: whatever is in a file, the program lives, the good files are compacted, and the bad ones stay as they are.

use std::fs;

use crate::support::{Arc, PARTITION};

mod thrift;

/// Footers at which the Parquet library asks for memory that is not there, or calls itself until the stack ends. Neither is
/// a panic that could be caught.
#[test]
fn a_footer_that_would_bring_the_parquet_library_down_costs_its_file_and_not_the_program() {
    for (what, footer) in [
        ("long_schema", thrift::footer_with_a_list_of(2, i32::MAX.unsigned_abs())),
        ("long_key_values", thrift::footer_with_a_list_of(5, i32::MAX.unsigned_abs())),
        ("many_children", thrift::footer_with_a_group_of(i32::MAX)),
        ("deep_schema", thrift::footer_nested(200_000)),
    ] {
        let arc = Arc::new();
        arc.write_telemetry(PARTITION, 3, 10);
        let rows = arc.rows(PARTITION);
        // The first in order of names, so that the program itself looks at its footer before any child does.
        let bytes = thrift::file_of(&footer);
        let bad = arc.put(PARTITION, "a_hostile.parquet", &bytes);

        let run = arc.compact();

        assert_eq!(run.code, 1, "{what}: {run:#?}");
        let report = run.json();
        assert_eq!(report["jobs"][0]["files_compacted"], 3, "{what}: {report:#}");
        assert_eq!(report["jobs"][0]["inputs_quarantined"][0]["name"], "a_hostile.parquet", "{what}: {report:#}");
        assert_eq!(fs::read(&bad).unwrap(), bytes, "{what}");
        fs::remove_file(bad).unwrap();
        assert_eq!(arc.rows(PARTITION), rows, "{what}");
    }
}
