"""Processes that join one cache (J): claims that race, holders that are killed, slow or preempted."""

from support.reliability.registry import Row, tests

FLEETS = (
    Row(
        "J1",
        "processes start at once on no cache, and claim the same shards at the same moment",
        "one makes the plan, one holds each shard; nothing is computed twice; same bytes",
        (
            *tests(
                "pipeline/precompute/test_join",
                "processes_that_start_at_once_divide_the_shards",
                "one_process_makes_the_plan_while_the_others_wait",
                "what_was_committed_before_it_was_claimed_is_no_job",
                "what_others_have_committed_is_seen_in_spite_of_their_claims",
            ),
            *tests(
                "pipeline/precompute/test_claims",
                "of_many_that_claim_at_once_one_succeeds",
                "of_many_that_take_over_at_once_one_succeeds",
            ),
        ),
    ),
    Row(
        "J2",
        "a process that holds a shard is killed, or preempted",
        "another takes the shard over, after SIGTERM at once; same bytes; no claim is left",
        (
            *tests(
                "pipeline/precompute/test_join",
                "a_fleet_with_killed_processes_makes_the_same_cache",
                "a_preempted_process_gives_its_shard_back",
            ),
            *tests(
                "pipeline/precompute/test_claims",
                "a_holder_killed_on_this_machine_is_seen_at_once",
                "leaving_gives_claims_back_with_their_counts",
                "a_damaged_claim_is_taken_over_after_a_lease",
            ),
        ),
    ),
    Row(
        "J3",
        "a holder is slow or hangs: its shard is taken over while it is still at work",
        "both may commit, with equal bytes; the successor keeps its claim",
        (
            *tests(
                "pipeline/precompute/test_join", "a_shard_that_two_processes_have_is_committed_once"
            ),
            *tests(
                "pipeline/precompute/test_claims",
                "a_slow_holder_leaves_the_claim_of_its_successor_alone",
                "a_run_that_makes_no_progress_loses_its_claims",
            ),
        ),
    ),
    Row(
        "J4",
        "the clocks of the machines differ by centuries",
        "no living holder loses its claim, no dead one keeps it",
        tests("pipeline/precompute/test_claims", "a_claim_is_stale_by_the_clock_of_the_observer"),
    ),
    Row(
        "J5",
        "all processes are killed",
        "the next ones finish the cache to the same bytes and compute nothing that was committed",
        tests(
            "pipeline/precompute/test_join",
            "a_fleet_of_which_all_are_killed_is_finished_by_the_next",
            "a_run_alone_clears_what_a_fleet_left",
        ),
    ),
    Row(
        "J6",
        "an image that kills its whole process; a machine where nothing works",
        "tried a bounded number of times, then abandoned and named; the others are not affected",
        (
            *tests(
                "pipeline/precompute/test_join",
                "an_image_that_kills_its_process_is_not_tried_without_end",
                "an_image_that_fails_in_every_worker_is_quarantined",
                "a_shard_that_every_process_abandons_is_left_alone",
                "a_process_where_nothing_works_leaves_the_shards_to_others",
            ),
            *tests(
                "pipeline/precompute/test_claims",
                "a_shard_whose_holders_are_killed_is_abandoned",
                "a_shard_that_processes_abandon_is_abandoned_by_all",
            ),
        ),
    ),
)
