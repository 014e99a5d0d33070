"""Host memory while a checkpoint folder is read: what is kept, and at most one shard beside it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from svp.model.conversion.llama_shape import LlamaShape
from svp.model.conversion.stand_in import write_standin
from svp.model.language.load import load_lm, read_config
from svp.pipeline.errors import WeightsError
from svp.pipeline.weights.load import load_state_dict

pytest.importorskip("sentencepiece", reason="pip install 'svp[train]'")
WIDE = LlamaShape(hidden=512, intermediate=1376, layers=6, heads=8, kv_heads=8)
SHARDS = 4

MEASURE = """
import json, sys, torch
from pathlib import Path
from svp.model.conversion import build_imported, open_ris_checkpoint
from svp.model.language.load import load_lm
from svp.model.projectors import build_projector
from transformers import LlamaForCausalLM

def high():
    rows = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return int(rows["VmHWM"].split()[0]) << 10, int(rows["VmRSS"].split()[0]) << 10

folder, kind = Path(sys.argv[1]), sys.argv[2]
build_projector("mlp", in_dim=8, llm_dim=16)(torch.zeros(1, 1, 8), (1, 1))
torch.ones(1 << 20).isfinite().all()
open("/proc/self/clear_refs", "w").write("5")
before = high()[1]
if kind == "lm":
    model = load_lm(folder, torch.bfloat16)
else:
    projector = build_projector("mlp", in_dim=8, llm_dim=512)
    model = build_imported(open_ris_checkpoint(folder), projector)
kept = sum(p.numel() * p.element_size() for p in model.parameters())
print(json.dumps({"peak": high()[0] - before, "kept": kept}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_standin(tmp_path_factory.mktemp("wide"), shape=WIDE, shards=SHARDS)


@pytest.fixture(scope="module")
def plain(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same language model alone, as Vicuna's folder holds one."""
    out = tmp_path_factory.mktemp("plain")
    known = ("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")
    state = {n: t for n, t in load_state_dict(folder).items() if n.startswith(known)}
    names, where = list(state), {}
    each = -(-len(names) // SHARDS)
    for k in range(SHARDS):
        file = f"pytorch_model-{k}.bin"
        part = {n: state[n].clone() for n in names[k * each : (k + 1) * each]}
        torch.save(part, out / file)
        where |= dict.fromkeys(part, file)
    (out / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    (out / "config.json").write_text((folder / "config.json").read_text())
    return out


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
@pytest.mark.parametrize("kind", ["checkpoint", "lm"])
def test_nothing_is_built_twice(folder: Path, plain: Path, kind: str) -> None:
    source = folder if kind == "checkpoint" else plain
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(source), kind],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    shard = max(file.stat().st_size for file in source.glob("*.bin"))
    assert found["kept"] > 90 << 20 and shard < 50 << 20
    assert found["peak"] <= 1.2 * found["kept"] + shard, found


def test_a_file_of_the_wanted_dtype_is_not_copied(plain: Path) -> None:
    """Its parameters are the mapped file; another dtype is cast tensor by tensor."""
    model = load_lm(plain, torch.bfloat16)
    name = "model.layers.3.mlp.up_proj.weight"
    wanted = load_state_dict(plain)[name]
    assert torch.equal(model.get_parameter(name), wanted)
    assert model.get_parameter(name).untyped_storage().nbytes() >= wanted.nbytes
    cast = load_lm(plain, torch.float32)
    assert torch.equal(cast.get_parameter(name), wanted.float())
    with torch.no_grad():
        model.get_parameter(name).zero_()  # the file stays as it is
    assert torch.equal(load_state_dict(plain)[name], wanted) and bool(wanted.any())


def test_a_nan_anywhere_is_still_found(plain: Path, tmp_path: Path) -> None:
    state = load_state_dict(plain)
    name = "lm_head.weight"
    state[name] = state[name].clone()
    state[name].view(-1)[-1] = float("nan")
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((plain / "config.json").read_text())
    with pytest.raises(WeightsError, match=r"lm_head\.weight holds NaN or infinity"):
        load_lm(tmp_path, torch.bfloat16)


@pytest.mark.filterwarnings("error")
def test_a_published_configuration_is_read_without_a_warning(folder: Path) -> None:
    """It writes `rope_scaling: null` out."""
    assert json.loads((folder / "config.json").read_text())["rope_scaling"] is None
    assert read_config(folder).hidden_size == WIDE.hidden
