"""The faults somebody makes: hostile files and careless services, T20 to T36."""

from support.reliability.registry import Row, tests

ATTACKS = (
    Row(
        "T20",
        "REFER pickles with code, deep nesting, terabyte lengths, cut off",
        "refused, nothing executed, memory bounded",
        (
            *tests(
                "pipeline/datasets/test_refer_pickle",
                "hostile_files_are_refused_and_run_nothing",
                "truncated_anywhere_gives_nothing",
                "any_bytes_load_or_are_a_data_error",
                "shared_objects_do_not_escape_the_cap",
            ),
            *tests("reliability/test_fuzz_data", "refer_pickles"),
        ),
    ),
    Row(
        "T21",
        "hostile zarr.json, manifests, plans, image lists and shard indices: codecs, shapes, links",
        "refused before any data is touched",
        (
            *tests(
                "pipeline/cache/test_schema",
                "hostile_metadata_is_refused_with_one_message",
                "what_is_no_metadata_is_refused",
            ),
            *tests(
                "pipeline/cache/test_manifest",
                "hostile_manifests_are_refused_even_with_a_right_checksum",
            ),
            *tests(
                "pipeline/cache/test_plan",
                "hostile_plans_are_refused",
                "paths_that_leave_the_root_are_refused",
            ),
            *tests(
                "pipeline/cache/test_image_list",
                "a_forged_list_is_refused",
                "paths_that_no_plan_may_have",
            ),
            *tests(
                "pipeline/cache/test_shardfile",
                "an_index_that_points_elsewhere_is_refused",
                "a_frame_of_another_size_is_refused_before_decoding",
            ),
            *tests(
                "pipeline/cache/test_reader",
                "a_hostile_zarr_json_is_refused_before_any_data_is_touched",
                "a_link_inside_the_cache_is_refused_but_the_cache_may_be_linked",
            ),
            *tests(
                "reliability/test_fuzz_cache",
                "plan",
                "image_list",
                "manifest",
                "counts",
                "metadata",
                "shard_file",
            ),
        ),
    ),
    Row(
        "T22",
        "checkpoints that hold code, bombs, damaged or disguised files",
        "one guarded loader, no second attempt; nothing in the file runs",
        (
            *tests(
                "pipeline/weights/test_weights",
                "payload_is_refused_and_never_runs",
                "force_variable_does_not_open_the_door",
                "one_attempt_per_file",
                "damaged_bytes_never_escape_as_other_errors",
            ),
            *tests("pipeline/weights/test_weight_files", "bad_torch_files", "bad_safetensors"),
            *tests("contracts/test_safe_loading", "no_unsafe_loading"),
            *tests(
                "reliability/test_fuzz_weights",
                "safetensors_headers",
                "torch_archives",
                "checkpoint_states",
            ),
        ),
    ),
    Row(
        "T23",
        "model folders whose config asks for code, remote names or the network",
        "refused before anything is imported; offline unless asked",
        (
            *tests(
                "pipeline/encoders/test_model_folder",
                "code_in_a_config_is_refused",
                "network_only_when_allowed",
            ),
            *tests("pipeline/sam/test_huggingface", "a_folder_that_could_run_code_is_refused"),
            *tests("model/conversion/test_convert", "a_config_that_asks_for_code_is_refused"),
        ),
    ),
    Row(
        "T24",
        "file names that leave the image folder, devices, links; members and positions of archives",
        "refused with record and rule",
        (
            *tests(
                "pipeline/io/test_paths",
                "hostile_names_are_refused_with_record_and_rule",
                "links_may_not_lead_outside",
                "whatever_passes_stays_below_the_root",
                "only_regular_files",
            ),
            *tests(
                "pipeline/datasets/test_photo_files",
                "hostile_members_are_not_photographs",
                "a_position_that_is_wrong_is_a_quarantine_reason",
            ),
            *tests(
                "pipeline/datasets/test_stored_photos",
                "names_of_data_files_stay_below_the_address",
                "a_position_that_is_wrong_in_a_bucket_is_a_reason",
                "what_is_no_name_of_a_photograph_is_counted",
            ),
            *tests(
                "pipeline/datasets/test_parquet_rows",
                "rows_that_hold_no_photograph_are_quarantined",
            ),
        ),
    ),
    Row(
        "T25",
        "image bombs, wrong extensions, truncated, animated, 16-bit, CMYK, palette",
        "decoded rightly or refused with a stable reason, from the header where it can be",
        tests(
            "pipeline/datasets/test_images",
            "bombs_are_refused_from_the_header",
            "truncated_files",
            "files_that_are_no_images",
            "animations_are_refused",
            "damaged_bytes_give_pixels_or_an_image_error",
            "16_bit_is_scaled_not_clipped",
            "cmyk_jpeg_has_the_colours_of_its_rgb_twin",
        ),
    ),
    Row(
        "T26",
        "malformed RLE: sums, sizes, negative counts, garbage strings",
        "refused before any C decoder sees it",
        (
            *tests(
                "pipeline/masks/test_rle",
                "bad_counts_never_reach_the_decoder",
                "bad_size",
                "any_string_is_a_mask_or_a_data_error",
                "bad_polygons_are_refused_with_the_annotation",
            ),
            *tests("pipeline/cache/test_stats", "a_malformed_mask_is_refused_before_it_is_counted"),
            *tests("reliability/test_fuzz_data", "segmentations"),
        ),
    ),
    Row(
        "T27",
        "Ray's open ports and dashboard",
        "local runs: no dashboard, 127.0.0.1, a token; a cluster is joined only when told",
        tests(
            "pipeline/executors/test_safety",
            "ray_is_local_and_has_no_dashboard",
            "ray_address_is_all_that_joins_a_cluster",
            "no_file_opens_a_service_to_the_network",
        ),
    ),
    Row(
        "T28",
        "Dask's unauthenticated scheduler and dashboard",
        "bound to 127.0.0.1, no dashboard",
        tests("pipeline/executors/test_safety", "dask_is_local_and_has_no_dashboard"),
    ),
    Row(
        "T29",
        "a web demo that reads any file",
        "`svp demo` serves its page and no file of the machine; nothing else serves anything",
        (
            *tests("reliability/test_flags", "only_the_demo_serves_anything"),
            *tests("train/runs/test_demo", "the_page_is_served_and_no_file_of_the_machine"),
        ),
    ),
    Row(
        "T30",
        "YAML recipes with tags, alias bombs, unknown keys, NaN, depth",
        "refused with field and rule; no file runs code",
        (
            *tests(
                "pipeline/precompute/test_options",
                "hostile_recipe_files_are_refused",
                "recipe_file_limits",
                "wrong_values_are_named",
            ),
            *tests("train/test_recipe", "wrong_fields_are_named"),
            *tests("reliability/test_fuzz_data", "recipes"),
        ),
    ),
    Row(
        "T31",
        "expressions and names with markup, scripts and bidirectional overrides in pages and cards",
        "they stay text; a content security policy; no address leaves the folder",
        (
            *tests(
                "pipeline/browse/test_page",
                "hostile_text_stays_text",
                "policy_names_exactly_the_own_style_and_script",
                "no_address_leaves_the_folder",
            ),
            *tests("train/evaluation/test_summary", "page_shows_pictures_and_keeps_text_text"),
            *tests("model/pretrained/test_pretrained", "the_card_says_what_it_was_given"),
        ),
    ),
    Row(
        "T32",
        "control characters in names, expressions and messages",
        "escaped wherever they are printed",
        (
            *tests("pipeline/test_display", "escaped_text_is_printable_and_bounded", "messages"),
            *tests("pipeline/precompute/test_progress", "nothing_controls_the_terminal"),
            *tests("pipeline/doctor/test_doctor", "terminal_codes_in_names_are_escaped"),
            *tests("pipeline/datasets/test_validate", "hostile_text_is_printed_safely"),
        ),
    ),
    Row(
        "T33",
        "archives with names outside, links, bombs; moved mirrors, cut transfers",
        "nothing leaves the folder; size and digest decide; a resume never joins two versions",
        (
            *tests(
                "pipeline/fetch/test_unpack",
                "names_that_leave_the_folder",
                "zip_links_and_devices",
                "tar_links_and_devices",
                "bombs",
                "truncated_archives",
            ),
            *tests(
                "pipeline/fetch/test_fetch",
                "wrong_digest_is_deleted",
                "a_resume_never_joins_two_versions",
                "redirect_away_from_https_is_refused",
                "huge_offer_is_refused_before_reading",
            ),
        ),
    ),
    Row(
        "T34",
        "tokens in the environment",
        "run folders keep an allow-list of names",
        (
            *tests("train/runs/test_train", "a_run_leaves_what_it_promises"),
            *tests("reliability/test_flags", "no_secret_of_the_environment_is_recorded"),
        ),
    ),
    Row(
        "T35",
        "an image with thousands of masks, extreme sizes, over-long lines and files",
        "caps with a clear message, counted in the report",
        (
            *tests(
                "pipeline/superpixels/test_point_grid", "the_cap_drops_the_smallest_and_counts_them"
            ),
            *tests("pipeline/cache/test_writer", "more_superpixels_than_the_cap_are_quarantined"),
            *tests("pipeline/datasets/test_jsonl", "over_long_line"),
            *tests("pipeline/weights/test_weight_files", "size_cap"),
        ),
    ),
    Row(
        "T36",
        "a dependency below its security floor",
        "floors are in setup.cfg, the constraints and the installed packages meet them",
        (
            *tests(
                "pipeline/doctor/test_machine",
                "installed_packages_meet_the_floors",
                "an_old_or_missing_package_is_bad_unless_optional",
            ),
            *tests(
                "pipeline/doctor/test_machine", "setup_and_constraints_meet_the_security_floors"
            ),
        ),
    ),
)
