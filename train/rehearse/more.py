"""Steps of the rehearsal that no document prints: other files, a kill, plain loading, the tables."""

from .walk import Step

_SET = "--size paper --dataset refer_data --split test"
_TRAIN = "svp train --size paper --from-cache caches/refer-train"
_INIT = "--init GLaMM-GranD-Pretrained"
_TABLE = f"--size paper --seeds 1 --root refer_data {_INIT}"

MORE: tuple[Step, ...] = (
    Step(
        "every published file of SAM and of the encoders",
        f"""
svp precompute {_SET} --sam-model vit_b --out caches/vit_b
svp precompute {_SET} --sam-model vit_l --out caches/vit_l
svp precompute {_SET} --superpixels mobile_sam --out caches/mobile
svp precompute {_SET} --superpixels slic --out caches/slic
svp precompute {_SET} --encoder clip-large-336 --out caches/clip
svp precompute {_SET} --out caches/dinov2 --encoder-weights weights/dinov2_vitl14_reg4_pretrain.pth
for name in vit_b vit_l mobile slic clip dinov2; do svp cache verify caches/$name; done
""",
    ),
    Step(
        "a projector that reads more than the default cache holds",
        f"""
svp precompute --size paper --dataset my_data/train.jsonl --split train --projector pvtc --out caches/pvtc
{_TRAIN.replace("refer-train", "pvtc")} --projector pvtc {_INIT} --runs runs/pvtc
! {_TRAIN} --projector pvtc {_INIT} --runs runs/never 2>refused.txt
grep -q "projector pvtc" refused.txt
""",
    ),
    Step(
        "killed in the middle, then resumed",
        f"""
{_TRAIN} {_INIT} --runs runs/killed --set run.checkpoint=1 & shim=$!
for wait in $(seq 1200); do
  if ls runs/killed/*/checkpoints/*/state.json >/dev/null 2>&1; then break; fi; sleep 0.1
done
kill -9 $shim; wait $shim || true
{_TRAIN} {_INIT} --runs runs/killed --set run.checkpoint=1 --resume auto
test $(ls -d runs/killed/*/ | wc -l) = 1
""",
    ),
    Step("a LISA folder", f"{_TRAIN} --init LISA-7B-v1 --runs runs/lisa"),
    Step(
        "a plan's commands, pasted, and the table from what they made",
        f"""
svp reproduce table1 {_TABLE} --row SVP --plan > plan.sh
bash -e plan.sh
svp reproduce table1 {_TABLE} --row SVP
test $(ls -d runs/reproduce/*-seed0/*/ | wc -l) = 1
""",
    ),
    Step(
        "one row of every table",
        f"""
svp reproduce table2 {_TABLE} --row SVP
svp reproduce table3 {_TABLE} --row GLaMM
svp reproduce table4 {_TABLE} --row Mask-Att.
svp reproduce table5 {_TABLE} --row "w/o Sharing"
svp reproduce table6 {_TABLE} --row SVP
svp reproduce table7 {_TABLE} --row "DINOv2 last layer"
svp reproduce tableC {_TABLE} --row "SLIC superpixel"
svp reproduce fig5 {_TABLE} --row "queries: 4"
""",
    ),
)
