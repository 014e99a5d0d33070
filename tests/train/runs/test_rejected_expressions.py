"""A run with [REJ] from scenes to an export: resumed, answered, split, read by transformers and peft."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import svp as package
from support import forked
from support.commands import svp
from svp.model.pretrained.pretrained import load_pretrained
from svp.pipeline.datasets.scenes import write_scenes
from svp.train.evaluation.results import Row, read_results

SETTINGS = (
    "model.rejection=true", 'model.projector={"name": "mlp"}',
    "model.shape={hidden: 32, intermediate: 48, layers: 1, heads: 2, kv_heads: 2}",
    "stages.0={name: align, steps: 2, warmup: 0, lr: 0.001, add_sspe: false}",
    "stages.1={name: finetune, steps: 2, warmup: 0, lr: 0.01, lora: true}",
    "data.sentences_per_image=8", "global_batch=2", "model.dtype=float32",
    "run={micro_batch: 1, gradient_checkpointing: false, preview: 0, checkpoint: 1, log: 1}",
)  # fmt: skip
TRAIN = ("train", "--from-cache", "caches/train", "--dataset", "scenes/scenes.jsonl", "--lm", "random:0",
         "--sam-decoder", "random:0", "--device", "cpu",
         *(word for one in SETTINGS for word in ("--set", one)))  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Scenes of which some sentences mean nothing, and their caches."""
    root = tmp_path_factory.mktemp("rejected")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_scenes(
            Path("scenes"), images=5, seed=9, splits={"train": 3, "val": 2}, no_target=True
        )
        for split in ("train", "val"):
            svp("precompute", "--dataset", "scenes/scenes.jsonl", "--split", split, "--workers", "0",
                "--points-per-side", "4", "--store-sam-embeddings", "--quiet",
                "--out", f"caches/{split}")  # fmt: skip
        yield root


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def answers(*words: str) -> list[Row]:
    svp("eval", "--split", "val", "--dataset", "scenes/scenes.jsonl", "--from-cache", "caches/val",
        "--no-bounds", "--device", "cpu", "--out", "found.jsonl", *words)  # fmt: skip
    rows = list(read_results(Path("found.jsonl")).rows)
    Path("found.jsonl").unlink()
    return rows


def test_it_resumes_and_answers_the_same_from_an_export(root: Path) -> None:
    svp(*TRAIN)
    (run,) = Path("runs").iterdir()
    told, last = losses(run), max((run / "checkpoints").glob("step-*"))
    trained = load_file(last / "weights.safetensors")
    shutil.rmtree(last)
    svp(*TRAIN, "--resume", "auto")
    assert losses(run) == told
    again = load_file(last / "weights.safetensors")
    assert all(torch.equal(again[name], value) for name, value in trained.items())

    before = answers()
    assert {row.target > 0 for row in before} == {True, False}
    assert all(row.rejection is not None and 0 < row.rejection < 1 for row in before)
    svp("export", "separate", "--adapter", "separate")
    svp("export", "merged")
    shutil.rmtree("runs")
    for export in ("separate", "merged"):
        after = answers("--checkpoint", export)
        assert [row.rejection for row in after] == pytest.approx(
            [row.rejection for row in before], abs=1e-4
        )
        assert sum(a.has_seg != b.has_seg for a, b in zip(after, before, strict=True)) <= 1

    row = next(row for row in before if row.target == 0)
    model: Any = package.load("separate", device="cpu", size="tiny")
    said = model(min(Path("scenes").rglob(Path(row.path).name)), row.text)
    assert said.rejection == pytest.approx(row.rejection, abs=1e-3)
    assert said.rejected == (said.rejection > 0.5) and (not said.mask.any() or not said.rejected)

    # transformers and peft, which know nothing of this package, read the same token and scores.
    folder = Path("separate")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rej = tokenizer.convert_tokens_to_ids("[REJ]")
    plain: Any = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    assert rej == len(tokenizer) - 1 < plain.config.vocab_size
    theirs = PeftModel.from_pretrained(plain, folder / "adapter").eval()
    ids = tokenizer("it is [REJ]", return_tensors="pt").input_ids
    assert rej in ids[0].tolist()
    with torch.no_grad():
        ours = load_pretrained(folder).lm(ids).logits
        torch.testing.assert_close(theirs(input_ids=ids).logits, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_have_the_losses_of_one(root: Path) -> None:
    several = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
               "--mixed_precision", "no"]  # fmt: skip
    quiet = ("--set", "model.lora.dropout=0.0")  # which processes draw by themselves
    found = []
    for name, launch in (("one", []), ("two", several)):
        done = subprocess.run(
            [forked.python(), *launch, "-m", "svp", *TRAIN, *quiet, "--runs", name], check=False,
            env=forked.launched(os.environ | {"OMP_NUM_THREADS": "1"}),
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        found.append(losses(next(Path(name).iterdir())))
    assert len(found[0]) == 4 and found[1] == pytest.approx(found[0], rel=1e-5)
