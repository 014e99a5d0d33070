"""Documented commands that the rehearsal skips, each with its reason."""

NETWORK = "needs the network"
CI = "run by .ci/run itself"
GPU = "needs a CUDA device"
BUCKET = "needs a bucket; the command's own tests run it on a server"
PUBLISHED = "needs gRefCOCO; tests/pipeline/datasets/test_published_sets.py reads its format"
CAPTIONS = "tests/train/test_captions.py runs it with a few steps"
BUDGET = (
    "tests/train/runs/test_budget_runs.py runs it on generated scenes, with budgets that fit these"
)
TOKENS = "tests/train/runs/test_budget_runs.py runs it on a small model with token answers"
LONG = "minutes to hours of measuring; the command's own tests run it"

# (how the command begins, why it is not run); "" keeps it in, against a later entry.
EXCEPTIONS: tuple[tuple[str, str], ...] = (
    ("svp fetch", NETWORK),
    ("docker build", NETWORK),
    (
        "svp doctor --gpus",
        "its sizes are the published ones; tests/train/runs/test_hardware.py compares its tables",
    ),
    ("hf download", NETWORK),
    ("pip install", NETWORK),
    ("make superpixels DATA=", ""),
    ("make superpixels", CI),
    ("make test", CI),
    ("make check-gpu", GPU),
    ("make check", CI),
    ("make rehearse", "this is it"),
    ("svp rehearse", "this is it"),
    ("svp reproduce table1 --size paper --rehearse", "minutes; a row of every table runs"),
    ("make reliability", LONG),
    ("svp reproduce table1 --size tiny --seeds 3", "hours; one row of every table runs"),
    ("svp train --recipe workflows/train/", CAPTIONS),
    ("svp export exports/aligned", CAPTIONS),
    ("svp data synth data/world2-none", TOKENS),
    ("svp eval --split train --from-cache caches/world2-train", TOKENS),
    ("svp eval --split val --from-cache caches/world2-val", TOKENS),
    ("svp data check refer_data/grefcoco", PUBLISHED),
    ("svp precompute --dataset refer_data/grefcoco", PUBLISHED),
    ("svp eval --runs runs/paper --dataset refer_data/grefcoco", PUBLISHED),
    ("svp cache stats caches/mine --budget", BUDGET),
    ("svp cache order", BUDGET),
    ("svp precompute --size paper --dataset refer_data --split train --preset windows", BUDGET),
    ("svp answers", "tests/integrations/test_exports.py runs it on a result file"),
    ("lmms-eval", "tests/integrations/lmms_eval/test_harness.py runs it where lmms-eval is"),
    ("svp compare", "tests/train/runs/test_compare.py runs it on two results"),
    ("svp train --size paper --from-cache caches/mine --init GLaMM-RefSeg --budget", BUDGET),
    ("svp eval --runs runs/budget", BUDGET),
    ("svp eval --runs runs/answers", BUDGET),
    ("svp export exports/budget", BUDGET),
    ("svp export exports/answers", BUDGET),
    ("svp predict photo.jpg the man left of the umbrella --checkpoint exports/budget", BUDGET),
    ("svp predict photo.jpg the man left of the umbrella --checkpoint exports/answers", BUDGET),
    (
        "accelerate launch --config_file workflows/accelerate/fsdp.yaml",
        "tests/train/trainer/test_strategies.py runs it with two processes",
    ),
    (
        "accelerate launch --config_file workflows/accelerate/zero2.yaml",
        "needs DeepSpeed; `make test-zero` runs it",
    ),
)


def reason_for(text: str) -> str:
    """Reason why the command `text` is skipped, or "": that of the first entry it starts with.

    >>> reason_for("svp eval --runs s3://bucket/runs")
    "needs a bucket; the command's own tests run it on a server"
    """
    if "s3://" in text:
        return BUCKET
    return next((why for start, why in EXCEPTIONS if text.startswith(start)), "")
