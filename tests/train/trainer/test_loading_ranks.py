"""Host memory of each of two ranks, from a published folder to a model that is split or not.

A rank may hold 1.2 times what it keeps and one shard of the checkpoint. What Python, the libraries
and the process group take is no part of that: it is measured with the same code, in the same
processes, on a language model of width 16.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import svp
from svp.model.conversion.llama_shape import LlamaShape
from svp.model.conversion.stand_in import write_standin

pytest.importorskip("sentencepiece", reason="pip install 'svp[train]'")
CONFIGS = Path(svp.__file__).parent / "workflows" / "accelerate"
SHAPE = LlamaShape(hidden=512, intermediate=1376, layers=20, heads=8, kv_heads=8)
EMPTY = LlamaShape(hidden=16, intermediate=16, layers=20, heads=2, kv_heads=2)
WHOLE = ("lm", "embedding", "lm_head")
SPLIT = ("FSDP", "DeepSpeedZero3")  # what keeps a part of the weights
PROGRAM = """
import json, sys, torch
from pathlib import Path
from torch.distributed.tensor import DTensor
from svp.model.conversion import build_imported, open_ris_checkpoint
from svp.model.projectors import build_projector
from svp.train.trainer.prepare import enter_stage, make_accelerator, make_ready, zero_level
from svp.train.recipe import parse_train_recipe
from svp.train.trainer.strategies import deepspeed

def memory(name):
    rows = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(rows[name].split()[0]) << 10

def part(value):
    return value.to_local() if isinstance(value, DTensor) else getattr(value, "ds_tensor", value)

def split_weights(*given, split=deepspeed.split_weights):
    split(*given)
    after_split.append(memory("VmHWM"))

def load(folder):
    open("/proc/self/clear_refs", "w").write("5")
    before = memory("VmRSS")
    imported = open_ris_checkpoint(Path(folder))
    model = build_imported(imported, build_projector("mlp", in_dim=8, llm_dim=imported.shape.hidden))
    del imported
    make_ready(model, recipe, 0, single=zero_level(accelerator) < 3)
    entered = enter_stage(accelerator, model, recipe, 0)
    whole = after_split.pop() if more and after_split else memory("VmHWM")
    peak = whole - before
    kept = sum(part(p).nbytes for p in entered.parameters.values())
    assert type(entered).__name__ == wrapper
    entered.leave()
    return peak, kept

empty, folder, out, wrapper, *more = sys.argv[1:]
after_split = []
deepspeed.split_weights = split_weights
parts = ["projector", "to_prompt", "mask_decoder", *more]
stage = {"name": "one", "steps": 200, "trains": parts}
recipe = parse_train_recipe(
    {"model": {"init": "given", "dtype": "bfloat16"}, "stages": [stage]}, "test"
)
accelerator = make_accelerator(recipe, "cpu")
load(empty)  # the first call touches code that later ones find in memory
peak, kept = load(empty)
libraries = peak - kept
peak, kept = load(folder)
found = {"libraries": libraries, "peak": peak, "kept": kept}
Path(out, f"{accelerator.process_index}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One whose language model is nearly empty, and one of 200 MB."""
    root = tmp_path_factory.mktemp("folders")
    return (
        write_standin(root / "empty", shape=EMPTY, shards=4),
        write_standin(root / "GLaMM", shape=SHAPE, shards=4),
    )


def config(way: str, folder: Path) -> list[str]:
    """Options of `accelerate launch`."""
    if way == "ddp":
        return ["--multi_gpu", "--mixed_precision", "no"]
    file = CONFIGS / "fsdp.yaml"
    if way != "fsdp":
        if importlib.util.find_spec("deepspeed") is None:
            pytest.skip("pip install 'svp[deepspeed]'")
        file = folder / "zero.yaml"
        text = (CONFIGS / "zero2.yaml").read_text()
        assert "zero_stage: 2" in text
        file.write_text(text.replace("zero_stage: 2", f"zero_stage: {way[-1]}"))
    return ["--config_file", str(file)]


@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
@pytest.mark.parametrize(
    ("way", "kind", "trains"),
    [
        ("ddp", "Strategy", ()),
        ("fsdp", "FSDP", ()),
        pytest.param("fsdp", "FSDP", WHOLE, marks=pytest.mark.slow),
        pytest.param("zero2", "DeepSpeedZero2", (), marks=pytest.mark.slow),
        pytest.param("zero3", "DeepSpeedZero3", (), marks=pytest.mark.slow),
        pytest.param("zero3", "DeepSpeedZero3", WHOLE, marks=pytest.mark.slow),
    ],
)
def test_no_rank_builds_what_it_does_not_keep(
    way: str, kind: str, trains: tuple[str, ...], folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """Trained numbers have 4 bytes, frozen ones 2.

    With ZeRO 3 and a language model that trains: until the weights are split. DeepSpeed then makes
    a second copy of the trained part, and its gradients, which are no part of loading.
    """
    (tmp_path / "program.py").write_text(PROGRAM)
    launch = [sys.executable, "-m", "accelerate.commands.launch", *config(way, tmp_path)]
    words = [*map(str, folders), str(tmp_path), kind, *trains]
    done = subprocess.run(
        [*launch, "--num_processes", "2", "program.py", *words],
        check=False, capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
    )  # fmt: skip
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("[01].json"))]
    assert len(found) == 2, done.stderr[-2000:]
    shard = max(file.stat().st_size for file in folders[1].glob("*.bin"))
    size = 2 if trains else 1
    for rank in found:
        assert 90 << 20 < rank["kept"] / size / (1 if kind in SPLIT else 2) < 110 << 20
        assert rank["peak"] - rank["libraries"] <= 1.2 * rank["kept"] + shard, found
