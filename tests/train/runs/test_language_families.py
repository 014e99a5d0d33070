"""A language model of each family from `--lm` to an answer: training, resuming, evaluation, export."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import svp as package
from support.commands import svp
from support.families import SMALL, Small, write_family
from svp.model.pretrained.config import read_model_file
from svp.pipeline.cache.plan import Plan
from svp.pipeline.datasets.scenes import write_scenes
from svp.train.evaluation.exported import Exported, open_exported
from svp.train.evaluation.results import read_results
from svp.train.metrics import metrics

# New rows train beside their matrices, then also adapters.
SETTINGS = (
    'model.projector={"name": "mlp"}',
    "stages.0={name: align, steps: 2, warmup: 0, lr: 0.001, add_sspe: false}",
    "stages.1={name: finetune, steps: 2, warmup: 0, lr: 0.01, lora: true}",
    "global_batch=2",
    "model.new_rows_only=true",
    "model.dtype=float32",
    "run={micro_batch: 2, gradient_checkpointing: true, preview: 0, checkpoint: 1, log: 1}",
)

# Of these families the run has a system message of its own, or none at all.
SYSTEM = {"smollm2": "", "qwen3": "Mark what is named.", "gemma3": "Mark what is named."}


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_scenes(root / "scenes", images=4, seed=9, splits={"train": 2, "val": 2})
    for split in ("train", "val"):
        svp("precompute", "--split", split, "--dataset", str(root / "scenes"), "--workers", "0",
            "--points-per-side", "4", "--set", "store_sam_embeddings=true", "--quiet",
            "--out", str(root / "caches" / split))  # fmt: skip
    return root


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def evaluate(cache: Path, *words: str) -> dict[str, float]:
    out = Path("results.jsonl")
    svp("eval", "--split", "val", "--from-cache", str(cache), "--no-bounds", "--limit", "2",
        "--device", "cpu", "--out", str(out), *words)  # fmt: skip
    found = metrics(read_results(out).counts)
    out.unlink()
    return found


VARIANTS = (
    "qwen2.5-window",
    "qwen3-vl",
    "phi4-mini",
    "gemma3-4b",
)  # of families that are tried anyway
CASES = [
    pytest.param(small, id=small.name, marks=[pytest.mark.slow] if small.name in VARIANTS else [])
    for small in SMALL
]


@pytest.mark.parametrize("small", CASES)
def test_a_family_trains_resumes_answers_and_is_exported(
    small: Small, caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lm = write_family(small, tmp_path / "lm")
    system = SYSTEM.get(small.name)
    more = () if system is None else (f"model.system_text={json.dumps(system)}",)
    sets = [word for one in (*SETTINGS, *more) for word in ("--set", one)]
    train = ("train", "--from-cache", str(caches / "caches" / "train"), "--lm", str(lm),
             "--sam-decoder", "random:0", "--device", "cpu", *sets)  # fmt: skip
    planned = svp(*train, "--dry-run")
    assert ("LM head" in planned) == (not small.tied)
    svp(*train)
    (run,) = Path("runs").iterdir()
    told, last = losses(run), max((run / "checkpoints").glob("step-*"))
    trained = load_file(last / "weights.safetensors")
    assert sum(name.endswith(".rows") for name in trained) == (1 if small.tied else 2)

    shutil.rmtree(last)
    svp(*train, "--resume", "auto")
    assert losses(run) == told
    again = load_file(last / "weights.safetensors")
    assert all((again[name] == value).all() for name, value in trained.items())

    cache = caches / "caches" / "val"
    before, generated = evaluate(cache), evaluate(cache, "--generate")
    assert 0 <= before["gIoU"] <= 1 and 0 <= generated["gIoU"] <= 1
    svp("export", "made", "--adapter", "separate")
    shutil.rmtree(run)
    after = evaluate(cache, "--checkpoint", "made")
    assert after["gIoU"] == pytest.approx(before["gIoU"], abs=2e-3)
    about = read_model_file(Path("made"))
    assert about.language.config is not None and about.system_text == system
    assert ("system_text" in (Path("made") / "svp.json").read_text()) == (system is not None)
    assert open_exported(Exported.open(Path("made")), Plan.load(cache)).vocab.system == system

    photo = min((caches / "scenes").rglob("val*.png"))
    model: Any = package.load("made", device="cpu", size="tiny")
    answers = model(photo, ["the red disc", "the big square"])
    alone = [model(photo, text) for text in ("the red disc", "the big square")]
    for mine, theirs in zip(answers, alone, strict=True):
        assert np.mean(mine.mask != theirs.mask) < 1e-3
    assert model(photo, "the red disc", generate=True).mask.shape == alone[0].mask.shape
