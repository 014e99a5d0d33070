"""The machines of a cluster: faults of Ray (R) and of Dask (D) clusters that a run has joined."""

from support.reliability.registry import Row, tests

CLUSTERS = (
    Row(
        "R3",
        "a Ray node joins while the run is under way, with and without a number of workers",
        "it is used; fewer nodes than asked for end the run only after a while",
        (
            *tests(
                "pipeline/executors/test_scheduler",
                "a_machine_that_joins_later_is_used",
                "fewer_workers_than_asked_for_end_the_run_only_after_a_while",
            ),
            *tests(
                "pipeline/executors/test_cluster_changes", "ray_nodes_are_left_out_join_and_drain"
            ),
        ),
    ),
    Row(
        "R5",
        "the head of the Ray cluster is killed",
        "one clear error before Ray ends the process; the status is no longer running; shards are kept",
        (
            *tests("pipeline/executors/test_workers", "a_silent_head_is_an_error_in_time"),
            *tests(
                "pipeline/executors/test_cluster_changes", "the_head_of_a_ray_cluster_is_killed"
            ),
            *tests("pipeline/precompute/test_progress", "a_status_that_is_not_renewed_is_lost"),
        ),
    ),
    Row(
        "R6",
        "a machine whose Python lacks svp, or that lacks a file or a mount, or fails every job",
        "left out after three attempts and named with the cause; the others finish; --ship sends svp",
        (
            *tests(
                "pipeline/executors/test_scheduler",
                "a_machine_without_svp_is_left_out_and_named",
                "a_machine_without_a_file_is_left_out_but_a_full_disk_ends_the_run",
                "the_run_ends_only_if_no_worker_is_ready_and_none_came",
                "workers_that_fail_together_are_one_false_start",
                "a_worker_that_was_ready_once_is_tried_for_as_long_as_the_run_lasts",
                "a_machine_on_which_every_job_fails_is_left_out",
                "a_worker_that_was_nowhere_rests_and_no_place_is_left_out",
            ),
            *tests(
                "pipeline/executors/test_cluster_changes",
                "ray_nodes_are_left_out_join_and_drain",
                "a_ray_node_without_svp_works_with_the_one_that_is_shipped",
            ),
        ),
    ),
    Row(
        "R7",
        "a machine with another version of svp or of a package that affects stored bits",
        "refused before its first shard, named with both versions; each shard's log has its versions",
        (
            *tests(
                "pipeline/executors/test_scheduler",
                "a_machine_with_other_versions_is_refused_at_once",
            ),
            *tests(
                "pipeline/executors/test_workers",
                "another_version_is_refused_before_anything_is_loaded",
                "a_worker_with_the_plans_versions_says_what_it_is",
            ),
            *tests("pipeline/precompute/test_run", "the_log_of_a_shard_says_what_made_it"),
            *tests(
                "pipeline/executors/test_cluster_changes", "ray_nodes_are_left_out_join_and_drain"
            ),
        ),
    ),
    Row(
        "R9",
        "a Ray node drains, is preempted or lost with its shard",
        "a draining node gets nothing new; a shard lost with its node is no attempt",
        (
            *tests(
                "pipeline/executors/test_scheduler",
                "a_draining_machine_gets_nothing_new_and_keeps_what_it_has",
                "a_job_lost_with_its_machine_is_no_attempt",
                "a_shard_that_ends_every_machine_is_searched_in_the_end",
            ),
            *tests(
                "pipeline/executors/test_workers", "capacity_leaves_out_what_drains_or_is_avoided"
            ),
            *tests(
                "pipeline/executors/test_cluster_changes", "ray_nodes_are_left_out_join_and_drain"
            ),
        ),
    ),
    Row(
        "D2",
        "a Dask worker joins while the run is under way",
        "it is used",
        tests(
            "pipeline/executors/test_cluster_changes",
            "a_dask_worker_joins_later_and_then_the_scheduler_is_killed",
        ),
    ),
    Row(
        "D3",
        "the Dask scheduler is killed",
        "one clear error with the way to continue; shards are kept",
        tests(
            "pipeline/executors/test_cluster_changes",
            "a_dask_worker_joins_later_and_then_the_scheduler_is_killed",
        ),
    ),
)
