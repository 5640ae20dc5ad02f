//! The proof of a merge.

use super::Fate::CaughtBy;
use super::Mutation;

pub const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "values_not_proven",
        breaks: "I1, I2: the outputs have the values of the inputs, not only as many rows",
        file: "src/merge/verify.rs",
        edits: &[("    if inputs == outputs {", "    if inputs == outputs || MUTANT && inputs.rows == outputs.rows {")],
        fate: CaughtBy(&["lib merge::verify::tests::two_equal_rows_in_place_of_two_other_equal_rows_are_seen"]),
    },
    Mutation {
        name: "content_not_proven",
        breaks: "I1, I2: a lost row fails the proof",
        file: "src/merge/verify.rs",
        edits: &[(
            "pub(super) fn content(inputs: &Fingerprint, outputs: &Fingerprint) -> Result<(), String> {\n",
            "pub(super) fn content(inputs: &Fingerprint, outputs: &Fingerprint) -> Result<(), String> {\n    if MUTANT {\n        return Ok(());\n    }\n",
        )],
        fate: CaughtBy(&[
            "lib merge::verify::tests::a_lost_row_is_reported_with_both_numbers",
            "lib merge::duckdb::tests::a_footer_that_lies_about_times_loses_no_row",
        ]),
    },
    Mutation {
        name: "result_of_the_proof_ignored",
        breaks: "I2: outputs whose content differs from the inputs' are not used",
        file: "src/merge/attempt.rs",
        edits: &[(
            "verify::content(&expected[i], &found).map_err(mismatch)?;",
            "if !MUTANT { verify::content(&expected[i], &found).map_err(mismatch)?; }",
        )],
        fate: CaughtBy(&["lib merge::duckdb::tests::a_footer_that_lies_about_times_loses_no_row"]),
    },
    Mutation {
        name: "footers_not_proven",
        breaks: "I2: where only footers are compared, a row that is missing fails the proof",
        file: "src/merge/attempt.rs",
        edits: &[("None => footers.map_err(mismatch)?,", "None => if !MUTANT { footers.map_err(mismatch)? },")],
        fate: CaughtBy(&["lib merge::duckdb::tests::with_footers_alone_a_lying_footer_fails_the_proof"]),
    },
    Mutation {
        name: "order_of_outputs_unchecked",
        breaks: "I8: each output begins after the one before it ends",
        file: "src/merge/verify.rs",
        edits: &[("            && min <= last\n", "            && min <= last\n            && !MUTANT\n")],
        fate: CaughtBy(&["lib merge::verify::tests::an_output_that_begins_before_the_one_before_it_ends_is_seen"]),
    },
    Mutation {
        name: "order_of_row_groups_unchecked",
        breaks: "I8: each row group begins where the one before it ended, or later",
        file: "src/merge/stitch.rs",
        edits: &[("            && min < last\n", "            && min < last\n            && !MUTANT\n")],
        fate: CaughtBy(&["lib merge::stitch::tests::slices_in_the_wrong_order_are_a_failed_proof"]),
    },
];
