"""Host memory of each of two ranks, from a published folder to a model that is split or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import svp
from svp.model.imports.shape import LlamaShape
from svp.model.imports.standin import write_standin

pytest.importorskip("sentencepiece", reason="pip install 'svp[train]'")
CONFIGS = Path(svp.__file__).parent / "workflows" / "accelerate"
SHAPE = LlamaShape(hidden=512, intermediate=1376, layers=20, heads=8, kv_heads=8)
LIBRARIES = 40 << 20  # pages of code and caches that are first touched meanwhile
PROGRAM = """
import json, sys, torch
from pathlib import Path
from torch.distributed.tensor import DTensor
from transformers import LlamaConfig, LlamaForCausalLM
from svp.model.imports import build_imported, open_ris_checkpoint
from svp.model.imports.expected import _sam
from svp.model.projectors import build
from svp.train.fit.stage import enter, make_accelerator, make_ready
from svp.train.recipe import parse_train_recipe

def memory(name):
    rows = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(rows[name].split()[0]) << 10

stage = {"name": "one", "steps": 200, "trains": ["projector", "to_prompt", "mask_decoder"]}
recipe = parse_train_recipe(
    {"model": {"init": "given", "dtype": "bfloat16"}, "stages": [stage]}, "test"
)
accelerator = make_accelerator(recipe, "cpu")
LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                             num_attention_heads=2, vocab_size=32))
build("mlp", in_dim=8, llm_dim=16)(torch.zeros(1, 1, 8), (1, 1))
for part in ("mask_decoder", "prompt_encoder"):
    _sam(part)
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS")
model = build_imported(open_ris_checkpoint(Path(sys.argv[1])),
                       build("mlp", in_dim=8, llm_dim=512))
make_ready(model, recipe, 0)
entered = enter(accelerator, model, recipe, 0)
own = [p.to_local() if isinstance(p, DTensor) else p for p in entered.parameters.values()]
found = {"peak": memory("VmHWM") - before, "kept": sum(p.nbytes for p in own)}
Path(sys.argv[2], f"{accelerator.process_index}.json").write_text(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
@pytest.mark.parametrize(
    "how",
    [("--multi_gpu", "--mixed_precision", "no"), ("--config_file", str(CONFIGS / "fsdp.yaml"))],
)
def test_no_rank_builds_what_it_does_not_keep(how: tuple[str, ...], tmp_path: Path) -> None:
    folder = write_standin(tmp_path / "GLaMM", shape=SHAPE, shards=4)
    (tmp_path / "program.py").write_text(PROGRAM)
    launch = [sys.executable, "-m", "accelerate.commands.launch", *how, "--num_processes", "2"]
    done = subprocess.run(
        [*launch, str(tmp_path / "program.py"), str(folder), str(tmp_path)], check=False,
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("[01].json"))]
    assert len(found) == 2, done.stderr[-2000:]
    shard = max(file.stat().st_size for file in folder.glob("*.bin"))
    for rank in found:
        assert rank["kept"] < (220 << 20 if "--multi_gpu" in how else 110 << 20)
        assert rank["peak"] <= 1.2 * rank["kept"] + shard + LIBRARIES, found
