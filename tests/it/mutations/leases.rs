//! Leases: who holds one, and until when.

use super::Fate::CaughtBy;
use super::Mutation;

pub const MUTATIONS: &[Mutation] = &[
    Mutation {
        name: "a_lost_lease_is_not_told",
        breaks: "T21: who loses a lease stops",
        file: "src/compaction/lease_guard.rs",
        edits: &[("    lost.cancel();\n", "    if !MUTANT {\n        lost.cancel();\n    }\n")],
        fate: CaughtBy(&[
            "lib compaction::lease_guard::tests::a_holder_that_did_not_run_finds_its_lease_ended",
            "lib compaction::lease_guard::tests::a_holder_that_cannot_renew_stops_at_the_end_of_its_time",
        ]),
    },
    Mutation {
        name: "a_lease_has_no_end_for_its_holder",
        breaks: "T21: a lease ends for its holder no later than for everybody else",
        file: "src/compaction/lease_guard.rs",
        edits: &[(
            "self.clock.uptime() >= uptime || self.clock.now() >= expires_at",
            "!MUTANT && (self.clock.uptime() >= uptime || self.clock.now() >= expires_at)",
        )],
        fate: CaughtBy(&["lib compaction::lease_guard::tests::a_holder_that_did_not_run_finds_its_lease_ended"]),
    },
    Mutation {
        name: "a_lease_taken_by_another_is_kept",
        breaks: "T21: a renewal that finds the lease gone ends it",
        file: "src/compaction/lease_guard.rs",
        edits: &[(
            "Ok(Err(LockError::Lost { .. })) => return lose(&lease, &lost),",
            "Ok(Err(LockError::Lost { .. })) if !MUTANT => return lose(&lease, &lost),",
        )],
        fate: CaughtBy(&[
            "lib compaction::lease_guard::tests::a_holder_whose_lease_another_one_has_stops_at_its_next_renewal",
        ]),
    },
    Mutation {
        name: "held_leases_in_sqlite_are_taken",
        breaks: "T29: leases of one partition exclude each other",
        file: "src/lock/sqlite.rs",
        edits: &[("&& !holder.worker_id.is_dead_here()", "&& !holder.worker_id.is_dead_here()\n        && !MUTANT")],
        fate: CaughtBy(&[
            "lib lock::sqlite::tests::sqlite_leases_conform",
            "lib lock::sqlite::tests::of_eight_handles_racing_for_a_partition_one_gets_it",
            "it faults::a_live_jobs_attempt_is_left_alone",
        ]),
    },
    Mutation {
        name: "ended_leases_in_sqlite_are_renewed",
        breaks: "T22: only a held lease is renewed",
        file: "src/lock/sqlite.rs",
        edits: &[("Ok((changed == 1).then_some(renewed))", "Ok((changed == 1 || MUTANT).then_some(renewed))")],
        fate: CaughtBy(&["lib lock::sqlite::tests::sqlite_leases_conform"]),
    },
    Mutation {
        name: "leases_in_a_bucket_overwrite",
        breaks: "T68: a lease is replaced only while it is the one that was read",
        file: "src/lock/storage.rs",
        edits: &[(
            "seen.map_or(PutMode::Create, |seen| PutMode::Update(seen.version.clone()))",
            "seen.map_or(PutMode::Create, |seen| if MUTANT { PutMode::Overwrite } else { PutMode::Update(seen.version.clone()) })",
        )],
        fate: CaughtBy(&["lib lock::storage::tests::of_many_workers_racing_for_a_partition_one_gets_it"]),
    },
    Mutation {
        name: "leases_in_a_bucket_end_by_our_clock",
        breaks: "T21: no machine's clock is compared with another's",
        file: "src/lock/storage.rs",
        edits: &[(
            "Standing::AskStore => held.is_over(seen.written_at, self.store_now().await?),",
            "Standing::AskStore => MUTANT || held.is_over(seen.written_at, self.store_now().await?),",
        )],
        fate: CaughtBy(&[
            "lib lock::storage::tests::a_lease_of_another_machine_is_over_when_the_clock_of_the_store_says_so",
        ]),
    },
    Mutation {
        name: "ended_leases_in_a_bucket_are_renewed",
        breaks: "T22: only a held lease is renewed",
        file: "src/lock/storage.rs",
        edits: &[(
            "            if is_over && matches!(wanted, Entry::Held(_)) {",
            "            if is_over && matches!(wanted, Entry::Held(_)) && !MUTANT {",
        )],
        fate: CaughtBy(&["lib lock::storage::tests::a_holder_that_slept_past_its_lease_has_lost_it"]),
    },
    Mutation {
        name: "leases_of_others_in_a_bucket_are_ours",
        breaks: "T22: only the holder renews and releases",
        file: "src/lock/storage/entry.rs",
        edits: &[(
            "self.token == lease.token && self.worker_id == lease.worker_id.to_string()",
            "MUTANT || self.token == lease.token && self.worker_id == lease.worker_id.to_string()",
        )],
        fate: CaughtBy(&["lib lock::storage::tests::leases_in_storage_conform"]),
    },
    Mutation {
        name: "living_workers_are_dead",
        breaks: "T26: a worker is dead only if that is certain",
        file: "src/lock/worker_id.rs",
        edits: &[(
            "Some(stat) => stat.start_ticks != start_ticks ||",
            "Some(stat) => MUTANT || stat.start_ticks != start_ticks ||",
        )],
        fate: CaughtBy(&["lib lock::worker_id::tests::this_process_is_itself_and_alive"]),
    },
];
