"""What can befall a cache: C1 to C22 are the numbers of the cache's fault list.

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
            ),
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
        tests(
            "pipeline/precompute/test_run",
            "a_bad_image_does_not_change_its_neighbours",
            "image_changed_between_plan_and_run",
            "retry_heals_to_the_bytes_of_a_clean_run",
            "retry_interrupted_half_way",
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
        "a cache on object storage (s3://, gs://, memory://)",
        "refused with the remedy; never a folder called `s3:`",
        tests("pipeline/cache/test_urls", "a_url_is_refused_with_the_remedy"),
        note="caches are read and written on file systems only",
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
)
