"""What can befall a cache: C1 to C35 are the numbers of the cache's fault list.

Numbers that are not here are rows of `faults`: C1 T8, C2 to C4 T6 and T9, C8 T8, C10 T9, C11 T7,
C13 T8, C16 and C17 T1 and T2, C18 T13, C20 T17, C21 T8.
"""

from support.reliability.registry import Row, tests

CACHE_FAULTS = (
    Row(
        "C5",
        "power loss after a commit: data files shorter than their record",
        "found without reading every byte; a resume makes exactly those shards",
        (
            *tests(
                "pipeline/cache/test_verify",
                "truncated_and_lost_files_are_found_without_reading_all",
            ),
            *tests(
                "pipeline/cache/test_manifest", "a_resume_redoes_shards_with_lost_or_short_files"
            ),
        ),
    ),
    Row(
        "C6",
        "a bit flipped in every file of a cache in turn",
        "verify names that file and no other; repair and resume restore its bytes; no wrong value",
        (
            *tests(
                "pipeline/cache/test_each_file",
                "a_flipped_bit_is_named_and_restored",
                "a_lost_file_is_named_and_restored",
            ),
            *tests(
                "pipeline/cache/test_verify",
                "every_flipped_byte_is_listed_by_file_and_nothing_else",
                "reads_of_a_flipped_cache_raise_or_are_right",
                "repair_makes_a_resume_redo_only_the_damage",
            ),
            *tests("pipeline/cache/test_image_list", "a_damaged_column_is_named"),
            *tests("pipeline/cache/test_layers", "damage_of_a_view_is_its_own"),
            *tests(
                "pipeline/cache/test_shardfile", "no_flipped_byte_and_no_cut_gives_a_wrong_value"
            ),
            *tests("train/data/test_loader", "a_damaged_row_stops_with_the_image_and_the_file"),
        ),
    ),
    Row(
        "C7",
        "images that are missing, changed, truncated, odd or refused by the model",
        "quarantined with the reason, neighbours unchanged; a repaired file gives the same bytes",
        (
            *tests(
                "pipeline/precompute/test_run",
                "a_bad_image_does_not_change_its_neighbours",
                "image_changed_between_plan_and_run",
                "retry_heals_to_the_bytes_of_a_clean_run",
                "retry_interrupted_half_way",
            ),
            *tests("pipeline/cache/test_layers", "what_a_layer_refuses_is_good_in_the_others"),
        ),
    ),
    Row(
        "C9",
        "a file system without space (a small tmpfs), or too little space to start",
        "one clear error, nothing half committed; with space the rerun finishes",
        (
            *tests(
                "pipeline/executors/test_full_disk",
                "a_full_file_system",
                "a_full_file_system_under_a_checkpoint",
            ),
            *tests("pipeline/precompute/test_run", "disk_is_checked_before_the_start"),
            *tests("train/trainer/test_run_folder", "a_full_disk_is_one_clear_error"),
        ),
    ),
    Row(
        "C12",
        "a worker that is stopped (SIGSTOP) or hangs",
        "ended after the time limit, its shard done by another; same bytes",
        (
            *tests("pipeline/executors/test_stalls", "a_stopped_worker_is_replaced"),
            *tests("pipeline/executors/test_executors", "every_fault_at_once"),
        ),
    ),
    Row(
        "C14",
        "a cache in object storage: 5xx, cut bodies, lost answers, expired credentials; damaged rows; "
        "an address that no store serves",
        "one clear error, or finished; the next run finishes it; rows are compared each time they are "
        "fetched; never a folder called `s3:`",
        (
            *tests(
                "pipeline/cache/test_urls",
                "what_cannot_be_served_is_told",
                "a_file_address_is_a_folder",
            ),
            *tests(
                "pipeline/cache/test_stored_cache",
                "a_row_of_a_store_that_is_damaged_is_refused",
                "quarantined_and_missing_rows_are_told",
            ),
            *tests(
                "test_stored_run",
                "a_service_that_fails_ends_a_run_clearly_and_the_next_finishes_it",
            ),
        ),
    ),
    Row(
        "C32",
        "two writers of one shard with unequal bytes; one killed before its manifest, or too slow; "
        "two that make the cache at once",
        "the first commit stands and the other is told of both makers; what a dead writer left is "
        "cleared, a living one's is not; files of two writers are never mixed; the run continues and tries "
        "the shard later",
        (
            *tests(
                "pipeline/cache/test_stored_cache",
                "what_is_committed_is_never_replaced",
                "what_a_dead_writer_left_is_cleared_and_a_living_ones_is_not",
                "a_slow_writer_gives_up_before_its_files_may_be_cleared",
                "files_of_the_loser_are_not_left_among_those_of_the_commit",
                "a_cache_made_by_two_at_once_has_one_plan",
            ),
            *tests(
                "pipeline/executors/test_scheduler",
                "a_shard_that_another_writer_has_with_other_bytes_is_put_back",
                "a_shard_whose_other_bytes_stay_in_the_way_is_abandoned",
            ),
            *tests(
                "pipeline/precompute/test_join",
                "a_shard_of_which_another_writer_has_other_bytes_is_tried_later",
            ),
            *tests(
                "pipeline/precompute/test_map_batches",
                "a_shard_that_another_machine_has_committed_with_other_bytes_stands",
            ),
        ),
    ),
    Row(
        "C15",
        "the cache moved, a shard gone while training",
        "a moved cache reads; a lost shard is an error that names it",
        (
            *tests(
                "pipeline/cache/test_reader",
                "a_moved_cache_still_reads",
                "only_committed_shards_are_read",
            ),
            *tests("pipeline/doctor/test_doctor", "a_complete_cache_that_lost_a_file_is_broken"),
        ),
    ),
    Row(
        "C19",
        "/dev/shm full; few open files",
        "works: nothing is kept in shared memory, at most 128 shard files are open",
        (
            *tests("pipeline/executors/test_full_disk", "shared_memory_full"),
            *tests("pipeline/cache/test_reader", "evicted_files_are_closed"),
        ),
    ),
    Row(
        "C22",
        "the clock jumps forwards and backwards; another time zone and locale",
        "same bytes; no living writer's file is deleted, no shard timed out",
        tests(
            "pipeline/executors/test_clock",
            "a_jumping_clock_changes_nothing",
            "another_time_zone_changes_no_byte",
        ),
    ),
    Row(
        "C23",
        "three writers of one shard with unequal bytes, one of them killed in half of the races",
        "a manifest is of the files it names; each loser is told both makers; the next run commits",
        (
            *tests("pipeline/store/test_races", "races", "races_where_answers_are_lost"),
            *tests("pipeline/store/test_races", "a_thousand_races"),
            *tests(
                "pipeline/store/test_contract",
                "equal_bytes_agree_and_other_bytes_are_refused_by_name",
                "of_many_writers_one_makes_the_file",
            ),
        ),
    ),
    Row(
        "C24",
        "an object service that answers 5xx, late, slowly, in part or not at all, or loses answers",
        "requests are repeated and nothing is lost; a service that stays away is one clear error",
        (
            *tests("pipeline/store/test_store_machine", "object"),
            *tests(
                "pipeline/store/test_object",
                "a_replacement_whose_answer_was_lost_is_one",
                "nothing_is_lost_by_passing_faults",
                "a_request_that_hangs_is_asked_again",
                "a_service_that_stays_away_is_one_clear_error",
                "a_server_that_is_not_there",
                "a_listing_survives_faults_between_its_pages",
                "a_service_without_create_is_refused",
            ),
        ),
    ),
    Row(
        "C25",
        "credentials that have expired, have no rights, are missing or stand in an address",
        "one clear error at once; no credential in a message, traceback, log or pickled store",
        tests(
            "pipeline/store/test_object",
            "what_does_not_pass_ends_at_once_and_shows_no_credentials",
            "credentials_in_an_address_are_refused_and_not_repeated",
            "without_credentials_the_search_for_them_is_short",
            "a_pickled_store_works_in_another_process",
        ),
    ),
    Row(
        "C26",
        "a writer killed while it makes a file; a file system without hard links, space or locks",
        "the file is whole or absent, durable on return; a leftover is found in one folder; refused in words",
        (
            *tests("pipeline/store/test_store_machine", "folder"),
            *tests(
                "pipeline/store/test_folder",
                "killed_anywhere_a_file_is_whole_or_absent",
                "file_and_folders_are_durable_on_return",
                "without_hard_links_a_rename_that_does_not_replace",
                "without_either_it_is_refused",
                "another_file_system_below_is_refused",
                "a_full_disk_leaves_nothing",
            ),
        ),
    ),
    Row(
        "C27",
        "a tar file of photographs that is cut, damaged, packed again, or changed after the plan",
        "what is lost is said, the rest is used; ids stay; a changed photograph is quarantined",
        tests(
            "pipeline/datasets/test_photo_files",
            "what_a_damaged_archive_lost_is_said",
            "what_is_no_archive_is_said",
            "ids_do_not_depend_on_the_place_in_the_archive",
            "a_member_that_was_changed_is_refused",
        ),
    ),
    Row(
        "C28",
        "weights at an address: many processes at once, a killed fetch, an object replaced meanwhile",
        "one fetch per machine and version; a copy is whole or absent",
        tests(
            "pipeline/weights/test_remote",
            "many_processes_of_a_machine_fetch_once",
            "a_new_version_is_fetched_again",
            "faults_leave_nothing_and_a_kill_is_cleared",
            "a_file_that_is_replaced_meanwhile_is_refused",
        ),
    ),
    Row(
        "C30",
        "photographs at an address: 5xx and cut bodies, credentials that expire, no such bucket, a "
        "service that stays away, while listing, planning or computing",
        "repeated, or one clear error; nothing is quarantined; the rerun gives the folder's bytes",
        (
            *tests(
                "pipeline/datasets/test_stored_photos",
                "a_service_that_refuses_is_no_fault_of_a_photograph",
                "a_service_that_stays_away_is_no_fault_of_a_photograph",
                "passing_faults_are_not_noticed",
                "an_address_of_nothing_says_what_is_not_there",
                "a_bucket_that_goes_away_is_no_missing_photograph",
            ),
            *tests(
                "pipeline/precompute/test_stored_images",
                "passing_faults_of_the_service_are_not_noticed",
                "a_service_that_fails_in_a_run_quarantines_nothing",
                "a_service_that_fails_while_planning_leaves_no_plan",
                "a_bucket_that_is_deleted_in_a_run_quarantines_nothing",
            ),
        ),
    ),
    Row(
        "C31",
        "objects replaced or deleted after the plan; a plan interrupted while it hashes a bucket; "
        "its memory of hashes lost or damaged",
        "a changed photograph is quarantined; what was hashed is not read again, or all of it is",
        (
            *tests(
                "pipeline/precompute/test_stored_images",
                "an_object_that_was_replaced_since_the_plan_is_changed",
                "a_plan_that_was_interrupted_goes_on_where_it_was",
                "what_was_hashed_once_is_not_read_again_for_a_plan",
            ),
            *tests(
                "pipeline/datasets/test_stored_photos",
                "without_a_place_to_remember_everything_is_read_again",
                "a_damaged_memory_is_no_obstacle",
                "a_damaged_tar_file_is_told_as_one_on_a_disk",
            ),
        ),
    ),
    Row(
        "C33",
        "copies of manifests that are old, damaged, of another layer or hostile; a run that ends "
        "before it has made them",
        "a copy counts only with its manifest's tag; what has none is read; the outcome is the same",
        (
            *tests(
                "pipeline/cache/test_manifest_snapshot",
                "a_manifest_that_was_made_anew_is_read",
                "another_manifest_of_the_name_is_not_answered_from_its_copy",
                "a_damaged_snapshot_costs_reads_alone",
            ),
            *tests(
                "pipeline/precompute/test_run",
                "a_run_that_ends_early_leaves_copies_of_its_manifests",
            ),
        ),
    ),
    Row(
        "C34",
        "a thin cache (no patch features) for a projector that reads patches, or beside a full one; a copy "
        "to a thin cache that is interrupted, of a damaged row, or of features in fewer bits",
        "one error before a model is loaded, with the command that adds the patches; the copy ends with the "
        "bytes of a computed cache, or says what is damaged or to be added",
        (
            *tests(
                "train/runs/test_thin_caches",
                "a_projector_that_reads_patches_is_refused_before_a_model_is_loaded",
                "a_model_that_reads_patches_is_not_evaluated_on_means",
                "the_command_of_the_error_adds_what_is_missing",
                "one_training_has_no_thin_and_full_cache",
            ),
            *tests(
                "pipeline/cache/test_thin",
                "a_thin_copy_has_the_bytes_of_what_is_computed",
                "a_damaged_row_is_not_made_into_a_mean",
                "no_mean_is_made_of_features_in_fewer_bits",
            ),
        ),
    ),
    Row(
        "C35",
        "rows on a local disk (--tier): flipped bits, cut files, a shard made again with other bytes, "
        "a disk that is full or refuses, a writer killed at any moment, the folder deleted meanwhile",
        "never another byte than the cache's; what is damaged is fetched again and told once; "
        "reading continues; no lock or leftover of a dead process; the limit holds",
        tests(
            "pipeline/cache/test_row_tier",
            "a_flipped_bit_is_fetched_again_and_told_once",
            "a_file_that_was_cut_is_fetched_again",
            "rows_of_a_shard_that_was_made_again_are_never_served",
            "a_row_that_is_wrong_in_the_store_is_refused_and_not_kept",
            "a_disk_that_refuses_is_told_once_and_tried_again",
            "a_folder_that_cannot_be_made_is_told_once",
            "the_folder_may_be_deleted_meanwhile",
            "nothing_half_written_is_served_after_a_kill",
            "processes_share_a_tier_and_its_limit",
        ),
    ),
    Row(
        "C36",
        "two plans in one cache, of two encoders: one is dropped, resumed, repaired or killed half-way; "
        "the file of a view damaged or lost",
        "nothing of the other plan changes; an interrupted drop is finished by the same drop or by "
        "making the plan again, with other weights, too; a damaged view is named before anything changes",
        (
            *tests(
                "pipeline/cache/test_views_machine",
                "any_interleaving_of_two_plans",
                "any_interleaving_of_two_plans_at_length",
            ),
            *tests(
                "pipeline/cache/test_killed_drop",
                "a_drop_killed_at_any_deletion_is_finished_or_taken_back",
            ),
            *tests(
                "pipeline/cache/test_layers",
                "damage_of_a_view_is_its_own",
                "a_view_stores_what_it_shares_once",
            ),
        ),
    ),
)
