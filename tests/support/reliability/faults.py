"""The faults that happen by themselves: T1 to T17."""

from support.reliability.registry import Row, tests

FAULTS = (
    Row(
        "T1",
        "training killed at any step of either stage or point of writing a checkpoint, or stopped by a "
        "signal; a checkpoint that cannot be written",
        "the resumed run ends bit-equal to one that was not stopped; the checkpoint before stays; no "
        "error is lost",
        (
            *tests(
                "train/trainer/test_resumed_run",
                "killed_in_either_stage_and_resumed_is_bit_equal",
                "killed_at_any_step_is_bit_equal",
                "a_signal_finishes_the_step_saves_and_names_the_command",
                "a_damaged_checkpoint_is_refused_by_name",
            ),
            *tests("train/trainer/test_loop", "offloaded_run_resumes_bit_equal"),
            *tests(
                "train/trainer/test_checkpoint_writer",
                "files_are_equal_however_long_the_writer_takes",
                "a_kill_at_any_point_leaves_the_checkpoint_before",
                "a_signal_waits_for_the_writer",
                "an_error_of_the_writer_ends_the_run",
                "an_error_beside_another_is_told",
            ),
        ),
    ),
    Row(
        "T2",
        "loader stopped in the middle of an epoch",
        "no record is lost or repeated, the order continues",
        (
            *tests(
                "train/data/test_order",
                "proportional_passes_hold_every_entry_once",
                "two_hundred_kills_and_world_sizes_give_the_uninterrupted_stream",
            ),
            *tests(
                "train/data/test_loader",
                "killed_and_resumed_with_any_world_size_the_stream_goes_on",
                "resuming_twice_and_at_step_zero",
            ),
        ),
    ),
    Row(
        "T3",
        "resume with another cache, split, seed or a damaged cursor",
        "refused with the reason",
        (
            *tests(
                "train/data/test_order",
                "a_cursor_goes_on_where_it_was",
                "a_cursor_of_another_stream_is_refused",
                "a_damaged_cursor_is_refused",
            ),
            *tests("train/data/test_loader", "a_cursor_of_other_data_is_refused"),
            *tests(
                "train/trainer/test_resumed_run",
                "another_recipe_or_cache_is_refused_with_the_field",
            ),
        ),
    ),
    Row(
        "T4",
        "another number of processes at the same global batch, also after a rank was killed",
        "same global order, loss within 1e-6",
        (
            *tests(
                "train/trainer/test_loop",
                "two_processes_and_accumulation_give_the_loss_of_one_batch",
                "a_global_batch_that_cannot_be_split_is_refused",
            ),
            *tests("train/data/test_order", "ranks_split_evenly_where_the_batch_divides"),
            *tests("train/data/test_loader", "threads_and_micro_batches_change_nothing"),
            *tests("train/trainer/test_torchrun", "a_rank_is_killed_and_another_number_goes_on"),
        ),
    ),
    Row(
        "T5",
        "empty split, one image, no mask, one mask over all, last partial batch, a limit",
        "works, or says what is missing",
        (
            *tests(
                "pipeline/cache/test_manifest",
                "an_empty_plan_is_complete_at_once",
                "one_image_and_all_quarantined",
            ),
            *tests(
                "pipeline/precompute/test_run", "no_image_can_be_read", "limit_is_another_cache"
            ),
            *tests(
                "pipeline/superpixels/test_point_grid",
                "nothing_survives_gives_one_flagged_full_image_superpixel",
            ),
            *tests("pipeline/masks/test_rle", "full_and_empty_mask"),
            *tests("train/data/test_loader", "a_share_without_images_is_refused"),
            *tests("train/evaluation/test_evaluate", "limit_takes_the_first_images"),
            *tests("model/projectors/svp/test_svp", "an_image_without_superpixels_is_refused"),
        ),
    ),
    Row(
        "T6",
        "kill -9 at every named write point; a worker or the whole run killed; the disk full",
        "the rerun gives byte-identical shards; nothing half-written counts; the cache stays usable",
        (
            *tests(
                "pipeline/cache/test_writer",
                "killed_anywhere_a_rerun_gives_the_same_bytes",
                "a_refused_write_commits_nothing_and_leaves_the_cache_usable",
                "disk_full_while_encoding_and_while_syncing",
                "only_leftovers_of_dead_writers_are_removed",
            ),
            *tests(
                "pipeline/executors/test_faults",
                "kill_local",
                "kill_ten_times",
                "worker_crashes_at_a_write_point",
                "driver_crashes_at_a_write_point",
                "disk_full",
            ),
            *tests(
                "pipeline/cache/test_cache_machine",
                "any_interleaving",
                "any_interleaving_at_length",
            ),
        ),
    ),
    Row(
        "T7",
        "the same command again; a changed recipe over an existing cache",
        "nothing is computed twice; another recipe is refused with both digests",
        (
            *tests(
                "pipeline/precompute/test_run",
                "second_run_does_nothing",
                "other_recipe_is_refused_with_both_digests",
                "without_resume_a_cache_is_left_alone",
                "foreign_folder_is_left_alone",
            ),
            *tests(
                "pipeline/cache/test_plan",
                "joining_another_plan_is_refused_with_both_ids_and_the_difference",
            ),
            *tests(
                "pipeline/cache/test_layers",
                "a_field_changes_the_layers_that_it_decides",
                "views_that_do_not_fit_are_refused_and_change_nothing",
            ),
        ),
    ),
    Row(
        "T8",
        "workers that die, raise or hang; images that kill their worker; a Ray node, a Dask machine lost",
        "same bytes from all executors; a poison image is recorded once; the run continues",
        (
            *tests(
                "pipeline/executors/test_executors",
                "every_fault_at_once",
                "worker_count_changes_nothing",
                "too_many_poison_images_park_the_shard_and_the_run_goes_on",
                "nothing_works_stops_the_run",
                "workers_that_cannot_load_their_models",
            ),
            *tests(
                "pipeline/executors/test_poison_search",
                "finds_exactly_the_poison",
                "a_stray_kill_quarantines_no_image",
            ),
            *tests(
                "pipeline/precompute/test_run",
                "executors_and_worker_counts_give_the_same_tree",
                "bad_images_are_quarantined_and_listed_once",
            ),
            *tests(
                "pipeline/executors/test_cluster",
                "a_ray_node_is_killed",
                "a_dask_worker_or_its_machine_is_killed",
            ),
        ),
    ),
    Row(
        "T9",
        "two runs on one cache; SIGINT and SIGTERM; Ctrl-C to the whole group",
        "never corruption; a clean stop that names the command that resumes; no worker left",
        (
            *tests(
                "pipeline/executors/test_faults",
                "two_runs_at_once",
                "signal",
                "ctrl_c_reaches_the_whole_group",
            ),
            *tests("pipeline/executors/test_stalls", "a_reader_during_two_writers"),
        ),
    ),
    Row(
        "T10",
        "two equal runs; superpixels in another order; padding",
        "equal metrics files; tokens only permute; padding has no effect",
        (
            *tests("train/trainer/test_resumed_run", "equal_runs_write_equal_metrics"),
            *tests(
                "model/projectors/svp/test_svp",
                "permuting_superpixels_permutes_tokens",
                "padding_and_neighbours_change_nothing",
                "what_stands_in_padding_is_never_read",
            ),
            *tests("train/evaluation/test_evaluate", "shuffled_orders_leave_the_first_alone"),
            *tests("reliability/test_flags", "deterministic_sets_torchs_flags"),
        ),
    ),
    Row(
        "T11",
        "any masks, any sizes, any order (hypothesis)",
        "RLE, FMA filter, views and samplers keep their invariants",
        (
            *tests(
                "pipeline/masks/test_rle",
                "round_trip_and_bytes_of_pycocotools",
                "string_codec_on_any_runs",
            ),
            *tests(
                "pipeline/masks/test_runs",
                "round_trip_areas_and_complement",
                "encode_gives_the_bytes_of_pycocotools",
            ),
            *tests("pipeline/superpixels/test_fma", "equals_the_definition"),
            *tests(
                "pipeline/masks/test_view",
                "coverage_is_the_exact_area",
                "a_partition_stays_a_partition",
                "points_round_trip",
            ),
            *tests("train/data/test_order", "proportional_passes_hold_every_entry_once"),
        ),
    ),
    Row(
        "T12",
        "a loss or gradient that is not finite",
        "stops before the step and names the batch; skipping is opt-in and changes no weight",
        (
            *tests(
                "train/trainer/test_loop",
                "a_non_finite_loss_stops_before_the_step_and_names_the_batch",
                "a_skipped_step_changes_no_weight",
            ),
            *tests("train/evaluation/test_evaluate", "logits_that_are_not_finite_stop_the_run"),
        ),
    ),
    Row(
        "T13",
        "fork, spawn and forkserver after reads in the parent, with threads running",
        "no hang, right values; a child forked after object storage was used is told at once",
        (
            *tests(
                "pipeline/cache/test_reader",
                "children_read_after_the_parent_did",
                "many_threads_share_a_reader_with_few_open_files",
            ),
            *tests("pipeline/store/test_object", "a_forked_process_is_told_at_once"),
        ),
        note="rows are read without a Zarr library, so its codec threads are never in the way",
    ),
    Row(
        "T14",
        "images not divisible by ranks; a model that predicts no mask",
        "equal metrics on 1, 2 and 3 ranks; a missing mask counts as IoU 0",
        (
            *tests(
                "train/evaluation/test_evaluate",
                "ranks_give_the_same_bytes",
                "without_seg_a_sentence_stays_in_both_metrics",
                "full_measures_every_sentence_once",
            ),
            *tests(
                "train/test_metrics",
                "published_programs",
                "by_hand",
                "impossible_counts_are_refused",
            ),
        ),
    ),
    Row(
        "T15",
        "cached features against live ones; bfloat16; a slow reference",
        "equal within the stated bound",
        (
            *tests("train/runs/test_train", "live_equals_cached_within_float16_rounding"),
            *tests(
                "model/projectors/svp/test_sspe", "shortcut_is_exact", "sharp_attention_in_float32"
            ),
            *tests("model/projectors/svp/test_ssa", "pool_is_the_weighted_mean_of_the_patches"),
            *tests("pipeline/encoders/test_features", "lower_precision_drifts_little"),
            *tests("pipeline/precompute/test_shard_task", "rows_are_what_the_models_say"),
        ),
    ),
    Row(
        "T16",
        "wrong or partial weights; a changed command line, schema or wheel",
        "strict load with counts; the contracts are snapshots",
        (
            *tests(
                "model/conversion/test_convert",
                "every_published_tensor_is_accounted_for",
                "all_missing_and_unknown_tensors_are_named",
                "wrong_shapes_and_second_tensors_are_named",
                "untrained_rows_of_added_tokens_are_refused",
            ),
            *tests(
                "pipeline/weights/test_key_report",
                "every_fault_is_named",
                "partial_state_changes_nothing",
            ),
            *tests("contracts/test_cli", "surface_is_the_snapshot"),
            *tests("pipeline/cache/test_schema", "snapshot"),
            *tests("test_package", "command_line_imports_nothing_heavy", "wheel_contents"),
        ),
    ),
    Row(
        "T17",
        "a cache or checkpoint of version 1, or of a version to come",
        "read or converted, to the bit; a later one is refused and says what to use",
        (
            *tests(
                "pipeline/cache/test_golden",
                "it_still_reads_to_the_bit",
                "a_cache_of_version_1_converts_to_the_bit",
            ),
            *tests("pipeline/cache/test_plan", "hostile_plans_are_refused"),
            *tests(
                "train/trainer/test_checkpoint_v1",
                "it_still_reads_to_the_bit",
                "a_later_version_is_refused",
            ),
            *tests("train/evaluation/test_results", "missing_and_newer_files"),
        ),
    ),
    Row(
        "T37",
        "processes of one run that see other files: no checkpoint, another one or another cache under "
        "its name, an error on one of them alone",
        "the first process decides; the others refuse at once, all end with one error that names the "
        "process; nothing waits",
        (
            *tests(
                "train/test_agreement",
                "an_error_of_one_rank_is_raised_on_both",
                "a_fault_of_the_program_keeps_its_traceback_where_it_happened",
                "the_first_rank_decides",
                "ranks_that_read_different_things_are_told_apart",
            ),
            *tests(
                "train/trainer/test_resume",
                "a_process_that_reads_another_checkpoint_of_the_name_refuses",
            ),
            *tests(
                "train/trainer/test_torchrun",
                "a_rank_that_lacks_the_checkpoint_ends_the_run",
                "a_rank_that_cannot_read_its_share_ends_the_run",
            ),
            *tests(
                "train/runs/test_two_machines",
                "a_run_that_one_process_does_not_see_is_refused_by_all",
            ),
        ),
    ),
    Row(
        "T38",
        "a run at an address (--runs s3://...): killed while it sends or deletes a checkpoint; its machine "
        "lost; a checkpoint there damaged; two processes that train it; processes without a common folder",
        "another machine resumes from the newest whole checkpoint and ends bit-equal to a run that nothing "
        "stopped; the second process is told; what was deleted there is not sent again",
        (
            *tests(
                "train/trainer/test_remote_run",
                "a_killed_run_goes_on_on_another_machine",
                "another_process_that_trains_the_run_is_told",
                "a_damaged_checkpoint_is_told_and_the_one_before_taken",
                "resuming_an_earlier_checkpoint_drops_the_later_ones",
                "a_copy_of_a_run_that_was_deleted_is_not_sent_again",
                "a_name_that_is_taken_is_refused_and_its_run_stays",
                "a_new_run_that_is_refused_leaves_nothing",
            ),
            *tests(
                "train/trainer/test_torchrun",
                "two_machines_without_a_common_folder_resume_from_an_address",
            ),
            *tests(
                "train/runs/test_runs_at_address",
                "a_run_goes_on_on_another_machine_and_is_read_from_there",
            ),
        ),
    ),
    Row(
        "T39",
        "credentials that expire, or an object service that fails, while a run at an address trains",
        "training continues, the checkpoints stay on the machine and are sent later; if never, one error "
        "names their folder and the command that sends them; no credential is shown",
        (
            *tests(
                "train/trainer/test_remote_run",
                "passing_faults_change_nothing",
                "credentials_that_expire_for_a_while_cost_nothing",
                "credentials_that_stay_expired_leave_the_run_on_this_machine",
                "a_file_too_large_for_one_object_is_told",
            ),
            *tests(
                "train/runs/test_runs_at_address",
                "an_address_that_refuses_is_told_before_the_work",
            ),
        ),
    ),
)
