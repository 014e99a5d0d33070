"""lmms-eval's own command line with the shipped tiny model: it prints the gIoU of `svp eval`."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from svp.integrations.lmms_eval import TASKS
from svp.train.evaluation.results import read_results
from svp.train.metrics import metrics

ENTRY = any(
    point.value.startswith("svp.")
    for point in importlib.metadata.entry_points(group="lmms_eval.models")
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(importlib.util.find_spec("lmms_eval") is None, reason="needs lmms-eval")
@pytest.mark.skipif(not ENTRY, reason="svp was installed before it had the entry point")
def test_the_harness_prints_our_giou(tmp_path: Path) -> None:
    environment = {**os.environ, "SVP_DATASET": str(tmp_path / "scenes"), "HF_HUB_OFFLINE": "1"}

    def run(*words: str) -> None:
        done = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, env=environment,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    run("svp", "data", "synth", "scenes", "--images", "20")
    run(
        "svp",
        "precompute",
        "--dataset",
        "scenes",
        "--split",
        "testA",
        "--workers",
        "0",
        "--out",
        "cache",
    )
    run("svp", "eval", "--checkpoint", "tiny", "--from-cache", "cache", "--split", "testA",
        "--no-bounds", "--out", "own.jsonl")  # fmt: skip
    run("lmms_eval", "--model", "svp", "--model_args", "pretrained=tiny,size=tiny",
        "--include_path", str(TASKS), "--tasks", "res_refcoco_testA", "--batch_size", "16",
        "--output_path", "out")  # fmt: skip
    (file,) = (tmp_path / "out").rglob("*_results.json")
    said = json.loads(file.read_text())
    found, rows = said["results"]["res_refcoco_testA"], read_results(tmp_path / "own.jsonl")
    assert said["n-samples"]["res_refcoco_testA"]["effective"] == len(rows.rows)
    # Answers are in bfloat16, which rounds by the batch's shape: a pixel or two of some masks.
    own = metrics(rows.counts)
    assert found["gIoU,none"] == pytest.approx(own["gIoU"], abs=0.003)
    assert found["cIoU,none"] == pytest.approx(own["cIoU"], abs=0.003)
