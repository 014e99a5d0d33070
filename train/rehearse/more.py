"""Steps of the rehearsal that no document prints: other files, a kill, plain loading."""

from .walk import Step

_TRAIN = "svp train --size paper --from-cache caches/train --init GLaMM-GranD-Pretrained"

MORE: tuple[Step, ...] = (
    Step(
        "every published file of SAM and of the encoders",
        """
svp precompute --size paper --split val --dataset refer_data --limit 1 --sam-model vit_b --out caches/vit_b
svp precompute --size paper --split val --dataset refer_data --limit 1 --sam-model vit_l --out caches/vit_l
svp precompute --size paper --split val --dataset refer_data --limit 1 --superpixels mobile_sam --out caches/mobile
svp precompute --size paper --split val --dataset refer_data --limit 1 --encoder clip-large-336 --out caches/clip
svp precompute --size paper --split val --dataset refer_data --limit 1 --out caches/dinov2_file \\
    --encoder-weights weights/dinov2_vitl14_reg4_pretrain.pth
for name in vit_b vit_l mobile clip dinov2_file; do svp cache verify caches/$name; done
""",
    ),
    Step(
        "killed in the middle, then resumed",
        f"""
{_TRAIN} --runs runs/killed --set run.checkpoint=1 & shim=$!
for try in $(seq 600); do
  if ls runs/killed/*/checkpoints/*/state.json >/dev/null 2>&1; then break; fi; sleep 0.1
done
kill -9 $shim; wait $shim || true
{_TRAIN} --runs runs/killed --set run.checkpoint=1 --resume auto
test $(ls -d runs/killed/*/ | wc -l) = 1
""",
    ),
    Step("a LISA folder", f"{_TRAIN} --init LISA-7B-v1 --runs runs/lisa"),
)
