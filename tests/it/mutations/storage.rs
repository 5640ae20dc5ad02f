//! Publishing, creating and deleting.

use super::Fate::{CaughtBy, Harmless};
use super::Mutation;

pub const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "outputs_overwrite",
        breaks: "T2: an output is created if there is none of its name",
        file: "src/storage/publish.rs",
        edits: &[(
            "let options = PutOptions { mode: PutMode::Create,",
            "let options = PutOptions { mode: if MUTANT { PutMode::Overwrite } else { PutMode::Create },",
        )],
        fate: CaughtBy(&["lib storage::tests::writing::publishing_never_overwrites"]),
    },
    Mutation {
        name: "anybodys_small_file_is_ours",
        breaks: "T2, T20: an object that is there already is the output only if it has its bytes",
        file: "src/storage/publish.rs",
        edits: &[(
            "Ok(found) if found.hasher.finalize() == blake3::hash(&content) => Ok(()),",
            "Ok(found) if found.hasher.finalize() == blake3::hash(&content) || MUTANT => Ok(()),",
        )],
        fate: CaughtBy(&["lib storage::tests::writing::publishing_never_overwrites"]),
    },
    Mutation {
        name: "uploads_overwrite",
        breaks: "T2: an upload is completed only where its name is free",
        file: "src/storage/publish.rs",
        edits: &[("Ok(Some(_)) => Some(exists()),", "Ok(Some(_)) => (!MUTANT).then(exists),")],
        fate: CaughtBy(&["lib storage::tests::writing::publishing_never_overwrites_with_an_upload_of_parts_either"]),
    },
    Mutation {
        name: "half_a_publication_did_not_happen",
        breaks: "I12: after the first file became visible, nobody may say that nothing was written",
        file: "src/storage/publish.rs",
        edits: &[(
            "Err(WriteError::NotWritten(error)) if visible > 0 =>",
            "Err(WriteError::NotWritten(error)) if visible > 0 && !MUTANT =>",
        )],
        fate: CaughtBy(&[
            "lib storage::tests::writing::a_publication_that_fails_midway_is_unknown_and_takes_nothing_back",
        ]),
    },
    Mutation {
        name: "outputs_not_synced",
        breaks: "T7, I2: an output's content lasts before its name appears",
        file: "src/storage/publish.rs",
        edits: &[(
            "    std::fs::File::open(staged).and_then(|file| file.sync_all()).map_err(at(staged))",
            "    if MUTANT {\n        return Ok(());\n    }\n    \
             std::fs::File::open(staged).and_then(|file| file.sync_all()).map_err(at(staged))",
        )],
        fate: CaughtBy(&["it power::a_power_cut_at_any_system_call_of_a_first_compaction_loses_and_doubles_nothing"]),
    },
    Mutation {
        name: "names_overwrite",
        breaks: "T2, I7: on local disk a name is given only where there is none",
        file: "src/storage/record.rs",
        edits: &[("mode: CopyMode::Create,", "mode: if MUTANT { CopyMode::Overwrite } else { CopyMode::Create },")],
        fate: CaughtBy(&[
            "lib storage::tests::writing::of_two_creates_of_a_record_the_first_stays",
            "lib storage::tests::writing::publishing_never_overwrites",
        ]),
    },
    Mutation {
        name: "records_overwrite",
        breaks: "J5, I7: a record is created if there is none of its generation",
        file: "src/storage/record.rs",
        edits: &[(
            "let options = PutOptions { mode: PutMode::Create,",
            "let options = PutOptions { mode: if MUTANT { PutMode::Overwrite } else { PutMode::Create },",
        )],
        fate: CaughtBy(&["lib storage::tests::writing::of_two_creates_of_a_record_the_first_stays"]),
    },
    Mutation {
        name: "a_refused_create_has_succeeded",
        breaks: "I7: of many creates one wins",
        file: "src/storage/record.rs",
        edits: &[(
            "Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Created::AlreadyExists),",
            "Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => \
             Ok(if MUTANT { Created::Created } else { Created::AlreadyExists }),",
        )],
        fate: CaughtBy(&[
            "lib storage::tests::writing::of_many_creates_at_the_same_time_one_wins",
            "it sim::no_seed_loses_or_doubles_a_row",
        ]),
    },
    Mutation {
        name: "records_not_synced_before_deletions",
        breaks: "T7, I2: the record that retires a file lasts before the file goes, whoever wrote it",
        file: "src/storage/delete.rs",
        edits: &[("        if place == Place::Data\n", "        if !MUTANT\n            && place == Place::Data\n")],
        fate: CaughtBy(&["lib storage::tests::deleting::nothing_is_deleted_while_the_records_cannot_be_made_durable"]),
    },
    Mutation {
        name: "deletions_not_synced",
        breaks: "T7: deletions last before a later record stops mentioning the files",
        file: "src/storage/delete.rs",
        edits: &[(
            "Place::Data => self.sync_folder(root, partition).await.err(),",
            "Place::Data => if MUTANT { None } else { self.sync_folder(root, partition).await.err() },",
        )],
        fate: Harmless {
            because: "the next record is made after another sync of the folder",
            guarded_by: &["it power::a_power_cut_at_any_system_call_of_a_void_loses_and_doubles_nothing"],
        },
    },
    Mutation {
        name: "records_made_before_deletions_last",
        breaks: "T7: a record that drops a retired file is made after the deletion of the file is durable",
        file: "src/storage/record.rs",
        edits: &[(
            "        self.sync_folder(root, partition).await.map_err(WriteError::NotWritten)?;",
            "        if !MUTANT {\n            self.sync_folder(root, partition).await.map_err(WriteError::NotWritten)?;\n        }",
        )],
        fate: Harmless {
            because: "the folder was synced right after the deletions; only whoever dies in between needs this",
            guarded_by: &["it power::a_power_cut_at_any_system_call_of_a_void_loses_and_doubles_nothing"],
        },
    },
    Mutation {
        name: "folders_not_synced",
        breaks: "T7: neither the one nor the other",
        file: "src/storage/record.rs",
        edits: &[(
            "        self.sync_path(root, partition.to_string()).await\n",
            "        if MUTANT {\n            return Ok(());\n        }\n        self.sync_path(root, partition.to_string()).await\n",
        )],
        fate: CaughtBy(&["it power::a_power_cut_at_any_system_call_of_a_void_loses_and_doubles_nothing"]),
    },
    Mutation {
        name: "deletes_by_name_in_a_bucket",
        breaks: "I3, T9: what is deleted has the size and ETag that the record names",
        file: "src/storage/delete.rs",
        edits: &[(
            "Some(now) if now == *target => Look::Same(key),",
            "Some(now) if now == *target || MUTANT => Look::Same(key),",
        )],
        fate: CaughtBy(&["lib storage::tests::deleting::deletion_is_exact"]),
    },
    Mutation {
        name: "deletes_by_name_on_disk",
        breaks: "I3, T9: what is deleted has the size and ETag that the record names",
        file: "src/storage/delete.rs",
        edits: &[(
            "Ok(Some(now)) if now.size_bytes == target.size_bytes && now.etag == target.etag => Look::Same(key),",
            "Ok(Some(now)) if now.size_bytes == target.size_bytes && now.etag == target.etag || MUTANT => Look::Same(key),",
        )],
        fate: CaughtBy(&["lib storage::tests::deleting::deletion_is_exact"]),
    },
    Mutation {
        name: "deletes_what_cannot_be_looked_at",
        breaks: "I12: a look that fails is not one that found the right file",
        file: "src/storage/delete.rs",
        edits: &[(
            "            Ok(None) => Look::Gone,\n            Err(error) => Look::Failed(error),",
            "            Ok(None) => Look::Gone,\n            Err(_) if MUTANT => Look::Same(key),\n            Err(error) => Look::Failed(error),",
        )],
        fate: CaughtBy(&["lib storage::tests::deleting::a_file_that_cannot_be_looked_at_is_left_alone"]),
    },
    Mutation {
        name: "unacknowledged_deletions_count",
        breaks: "T49: only an acknowledged deletion has happened",
        file: "src/storage/delete.rs",
        edits: &[("acknowledged.contains(key));", "acknowledged.contains(key) || MUTANT);")],
        fate: CaughtBy(&[
            "lib storage::tests::deleting::a_failing_deletion_is_reported_and_the_others_happen",
            "lib storage::tests::deleting::a_deletion_without_an_answer_has_failed_when_nobody_can_look",
        ]),
    },
    Mutation {
        name: "what_is_still_there_is_gone",
        breaks: "T49: a deletion that failed is looked after, and is said to have failed while the object is there",
        file: "src/storage/delete.rs",
        edits: &[("if there.contains(&name) {", "if there.contains(&name) && !MUTANT {")],
        fate: CaughtBy(&["lib storage::tests::deleting::a_failing_deletion_is_reported_and_the_others_happen"]),
    },
    Mutation {
        name: "names_may_leave_the_partition",
        breaks: "T16: every verb takes plain file names only",
        file: "src/partition/file.rs",
        edits: &[(
            "    !matches!(name, \"\" | \".\" | \"..\") &&",
            "    MUTANT || !matches!(name, \"\" | \".\" | \"..\") &&",
        )],
        fate: CaughtBy(&["lib storage::tests::reading::names_that_leave_the_partition_are_refused_by_every_verb"]),
    },
];
