"""Rehearsal steps that no document prints: other file formats, a kill, plain loading, tables.

They write into `more/`, beside the documents' own commands; `MORE` reads what README.md's commands
made.
"""

from .walk import Step

_SET = "--size paper --dataset refer_data --split test"
_TRAIN = "svp train --size paper --from-cache caches/refer-train"
_INIT = "--init GLaMM-GranD-Pretrained"
_TABLE = (
    f"--size paper --seeds 1 --root refer_data {_INIT} --runs more/tables --caches more/caches "
    "--out more/results"
)

# The language model of an export, with nothing of ours: merged, and its adapter by peft.
_PLAIN = """
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def language(folder):
    return AutoModelForCausalLM.from_pretrained(folder).float().eval()


merged, separate = Path("more/merged"), Path("more/separate")
words = AutoTokenizer.from_pretrained(merged)
assert words.convert_tokens_to_ids("[SEG]") == 32004
ids = words("the man left of the umbrella [SEG]", return_tensors="pt").input_ids
with torch.no_grad():
    one = language(merged)(ids).logits
    two = PeftModel.from_pretrained(language(separate), separate / "adapter").eval()(ids).logits
    torch.testing.assert_close(one, two, rtol=0.05, atol=0.05)
print("merged and separate agree on", ids.shape[1], "tokens")
"""
_LOSSES = """
import json
from pathlib import Path


def losses(runs):
    (path,) = Path(runs).glob("*/metrics.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def processes(runs):
    return {json.loads(path.read_text())["world"] for path in Path(runs).glob("*/*/step-*/state.json")}


one, two = losses("more/one"), losses("more/two")
assert (processes("more/one"), processes("more/two")) == ({1}, {2})
assert len(one) == len(two) == 4, (one, two)
assert all(abs(a - b) <= 1e-3 * abs(a) for a, b in zip(one, two)), (one, two)
print(one, two)
"""

# They start from the stand-ins alone, so they can run beside README.md's commands.
APART: tuple[Step, ...] = (
    Step(
        "every published file of SAM and of the encoders",
        f"""
mkdir -p more
svp precompute {_SET} --sam-model vit_b --out more/vit_b
svp precompute {_SET} --sam-model vit_l --out more/vit_l
svp precompute {_SET} --superpixels mobile_sam --out more/mobile
svp precompute {_SET} --superpixels slic --out more/slic
svp precompute {_SET} --encoder clip-large-336 --out more/clip
svp precompute {_SET} --out more/dinov2 --encoder-weights weights/dinov2_vitl14_reg4_pretrain.pth
for name in vit_b vit_l mobile slic clip dinov2; do svp cache verify more/$name; done
""",
    ),
    Step(
        "a plan's commands, pasted, and the table from what they made",
        f"""
svp reproduce table1 {_TABLE} --row SVP --plan > more/plan.sh
bash -e more/plan.sh
svp reproduce table1 {_TABLE} --row SVP
test $(ls -d more/tables/*-seed0/*/checkpoints | wc -l) = 1
""",
    ),
    Step(
        "one row of every table",
        f"""
svp reproduce table2 {_TABLE} --row SVP
svp reproduce table3 {_TABLE} --row GLaMM
svp reproduce table4 {_TABLE} --row Mask-Att.
svp reproduce table5 {_TABLE} --row "w/ Sharing"
svp reproduce table6 {_TABLE} --row SVP
svp reproduce table7 {_TABLE} --row "DINOv2 last layer"
svp reproduce tableC {_TABLE} --row "SLIC superpixel"
svp reproduce fig5 {_TABLE} --row "queries: 16"
""",
    ),
)

MORE: tuple[Step, ...] = (
    Step(
        "a projector whose input the cache does not hold is refused",
        f"""
mkdir -p more
! {_TRAIN} --projector pvtc {_INIT} --runs more/never 2>more/refused.txt
grep -q "projector pvtc" more/refused.txt
""",
    ),
    Step(
        "killed in the middle, then resumed",
        f"""
{_TRAIN} {_INIT} --runs more/killed --set run.checkpoint=1 & shim=$!
for wait in $(seq 1200); do
  if ls more/killed/*/checkpoints/step-*[0-9]/state.json >/dev/null 2>&1; then break; fi; sleep 0.1
done
kill -9 $shim; wait $shim || true
{_TRAIN} {_INIT} --runs more/killed --set run.checkpoint=1 --resume auto
test $(ls -d more/killed/*/ | wc -l) = 1
""",
    ),
    Step("a LISA folder", f"{_TRAIN} --init LISA-7B-v1 --runs more/lisa"),
    Step(
        "an export in plain transformers and peft",
        f"""
svp export more/merged --runs runs/paper
svp export more/separate --runs runs/paper --adapter separate
cat > more/plain.py <<'END'
{_PLAIN}END
python more/plain.py
""",
    ),
    Step(
        "two processes have the losses of one",
        f"""
{_TRAIN} {_INIT} --runs more/one --set run.log=1 --set run.micro_batch=1 --set model.dtype=float32
accelerate launch --multi_gpu --num_processes 2 --mixed_precision no -m {_TRAIN} {_INIT} \\
    --device cpu --runs more/two --set run.log=1 --set run.micro_batch=1 --set model.dtype=float32
cat > more/losses.py <<'END'
{_LOSSES}END
python more/losses.py
""",
    ),
)
