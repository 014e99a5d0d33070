"""Export the recipes' checkpoints: float16 weights and a JSON card each."""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from lm_task import TOKENIZER, build
from safetensors.torch import save_file

from svp.pipeline.bench.tiny import HELD_OUT, SPLIT, measure
from svp.pipeline.encoders import tiny as features_tiny
from svp.pipeline.sam import tiny

HERE = Path(__file__).parents[1] / "tiny"


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command("sam")
@click.option("--work", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--sharpness", default=4.0, show_default=True,
              help="Factor on the mask logits; raises stability, changes no mask.")  # fmt: skip
@click.option("--leniency", default=0.45, show_default=True,
              help="Factor on 1 - predicted IoU; keeps the order of all masks.")  # fmt: skip
@click.option("--note", default="", help="How the run was made, for the card.")
@click.option("--to", type=click.Path(path_type=Path), default=tiny.WEIGHTS, help="File to write.")
def export_sam(work: Path, sharpness: float, leniency: float, note: str, to: Path) -> None:
    """workflows/tiny/sam.safetensors from WORK/sam.pt.

    The two factors fit a small model to thresholds that were set for SAM: its masks are less sharp
    and it thinks less of them, rightly. Both are in the card.
    """
    state = torch.load(work / "sam.pt", weights_only=True)
    weights = state["sam"]
    for name, value in weights.items():
        if name.startswith("mask_decoder.output_hypernetworks_mlps") and ".layers.2." in name:
            value.mul_(sharpness)
        if name.startswith("mask_decoder.iou_prediction_head.layers.2."):
            value.mul_(leniency)
            if name.endswith("bias"):
                value.add_(1 - leniency)
    model = tiny.build_tiny_sam()
    _write(to, weights, model)
    _card(to, model, steps=state["step"], sharpness=sharpness, leniency=leniency,
          note=note, command="python workflows/pretrain_tiny/train_sam.py --work DIR && "
                             "python workflows/pretrain_tiny/export.py sam --work DIR")  # fmt: skip


@main.command("encoder")
@click.option("--work", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--note", default="", help="How the run was made, for the card.")
def export_encoder(work: Path, note: str) -> None:
    """workflows/tiny/dinov2.safetensors and attributes.safetensors from WORK/encoder.pt."""
    state = torch.load(work / "encoder.pt", weights_only=True)
    encoder, probe = (
        {k.removeprefix(part): v for k, v in state["parts"].items() if k.startswith(part)}
        for part in ("encoder.", "heads.")
    )
    model = features_tiny.build_tiny_dinov2()
    _write(features_tiny.WEIGHTS, encoder, model)
    _write(features_tiny.PROBE, probe, None)
    _card(features_tiny.WEIGHTS, model, steps=state["step"], note=note,
          command="python workflows/pretrain_tiny/train_encoder.py --work DIR && "
                  "python workflows/pretrain_tiny/export.py encoder --work DIR")  # fmt: skip


@main.command("ris")
@click.option("--work", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--note", default="", help="How the run was made, for the card.")
def export_ris(work: Path, note: str) -> None:
    """workflows/tiny/lm/ris.safetensors and its config.json from WORK/ris.pt."""
    state = torch.load(work / "ris.pt", weights_only=True)
    weights = {
        k.removeprefix("model."): v for k, v in state["parts"].items() if k.startswith("model.")
    }
    model = build(0).model
    path = TOKENIZER.with_name("ris.safetensors")
    _write(path, weights, model)
    config = model.lm.config.to_diff_dict()
    config["architectures"] = ["LlamaForCausalLM"]
    path.with_name("config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    _card(path, model, steps=state["step"], note=note,
          command="python workflows/pretrain_tiny/train_lm.py --work DIR && "
                  "python workflows/pretrain_tiny/export.py ris --work DIR")  # fmt: skip


@main.command("measure")
@click.option("--scenes", default=200, show_default=True)
@click.option("--points-per-side", default=32, show_default=True)
def measure_all(scenes: int, points_per_side: int) -> None:
    """Measure the shipped files on held-out scenes, print the report, note it in the cards."""
    torch.set_num_threads(1)
    report = measure(scenes, points_per_side=points_per_side)
    click.echo("\n".join(report.lines()))
    masks = {k: round(getattr(report, k), 4) for k in
             ("body", "region", "part", "sub_part", "coverage", "superpixels")}  # fmt: skip
    attributes = {
        k: {"accuracy": round(v, 4), "corrected": round(report.corrected[k], 4)}
        for k, v in report.accuracy.items()
    }
    facts = attributes | {"centre of a thing, px by a linear fit": round(report.place, 2)}
    for path, figures in ((tiny.WEIGHTS, masks), (features_tiny.WEIGHTS, facts)):
        card = json.loads(path.with_suffix(".json").read_text())
        key = f"{scenes} scenes, seed {HELD_OUT}, {SPLIT}"
        if path == tiny.WEIGHTS:
            key += f", {points_per_side}x{points_per_side} points"
        card.setdefault("measured", {})[key] = figures
        path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")


def _write(path: Path, weights: dict[str, Any], model: torch.nn.Module | None) -> None:
    """float16 on disk; what is loaded, and measured, is exactly that, up-cast."""
    half = {name: value.half().contiguous() for name, value in weights.items()}
    if model is not None:
        model.load_state_dict(half)  # strict
    part = path.with_suffix(".part")
    save_file(half, part)
    part.chmod(0o644)
    part.replace(path)


def _card(path: Path, model: torch.nn.Module, **facts: object) -> None:
    card = {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "parameters": sum(p.numel() for p in model.parameters()),
        **facts,
        "made_with": {"python": platform.python_version(),
                      **{p: version(p) for p in ("torch", "numpy", "segment-anything",
                                                 "transformers", "safetensors")}},
    }  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
