"""Table 6's time and memory: our bench of the same two projectors, and the paper's ratios."""

from collections.abc import Callable
from dataclasses import replace

from ..bench.presets import Preset, preset
from ..bench.speed import bench_infer, bench_train
from ..evaluation.paper import TABLE_6
from .results import Bench

LOOP = "encoders in the loop"  # as the paper trains
PRESETS = {"tiny": "cpu", "paper": "paper"}


def published() -> dict[str, float]:
    """The paper's ratios GLaMM + DINOv2 / SVP; its units of time are lost, ratios are not."""
    slow, fast = TABLE_6
    return {
        f"training time, {LOOP}": slow.train_time / fast.train_time,
        f"training memory, {LOOP}": slow.train_gb / fast.train_gb,
        "inference time": slow.inference_ms / fast.inference_ms,
        "inference memory": slow.inference_gb / fast.inference_gb,
    }


def measure(shapes: Preset, device: str, say: Callable[[str], None], repeats: int = 3) -> Bench:
    """The same ratios of ours, and those of training from a cache, which the paper has not.

    As many images go into a pass of one as of the other. Raises what the benches raise.
    """
    shapes = same_images(shapes)
    say(f"bench train and infer, preset {shapes.name}, on {device}")
    train, infer = bench_train(shapes, device, repeats), bench_infer(shapes, device, repeats)
    memory = {
        (one.case.what, one.case.where, one.case.projector): one.memory
        for one in (*train.cases, *infer.cases)
    }
    stage, live = "stage 2", "forward"
    return Bench(
        ratios={
            f"training time, {LOOP}": train.ratios()[f"{stage}, live"],
            f"training memory, {LOOP}": _ratio(memory, stage, "live"),
            "training time, from cache": train.ratios()[f"{stage}, from cache"],
            "training memory, from cache": _ratio(memory, stage, "from cache"),
            "inference time": infer.ratios()[f"{live}, live"],
            "inference memory": _ratio(memory, live, "live"),
        },
        paper=published(),
        train=train.to_json(),
        infer=infer.to_json(),
    )


def same_images(shapes: Preset) -> Preset:
    """With the images per pass that both projectors have room for."""
    micro = min(shapes.micro.values())
    return replace(shapes, micro=dict.fromkeys(shapes.micro, micro))


def for_size(size: str, device: str, say: Callable[[str], None]) -> Bench:
    """The bench that stands for a size of the table: the `cpu` or the `paper` preset."""
    return measure(preset(PRESETS[size]), "cpu" if size == "tiny" else device, say)


def _ratio(memory: dict[tuple[str, str, str], int], what: str, where: str) -> float:
    return memory[what, where, "mlp"] / memory[what, where, "svp"]
