"""Export the recipes' checkpoints: float16 weights and a JSON card each."""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from lm_model import lm_config
from lm_task import TOKENIZER, build
from safetensors.torch import load_file, save_file

from svp.model.language.load import random_lm
from svp.pipeline.bench.tiny import HELD_OUT, SPLIT, measure
from svp.pipeline.encoders import tiny as features_tiny
from svp.pipeline.encoders.clip import build_clip, shape
from svp.pipeline.sam import tiny
from svp.pipeline.sam.mobile_sam import map_keys, published_names
from svp.pipeline.sam.tiny_mobile import build_tiny_mobile
from svp.train.data.tokenizer import load_vocabulary

HERE = Path(__file__).parents[1] / "tiny"
FOLDERS = {1: "", 2: "world2"}  # of each world's weights


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
@click.option("--world", type=click.IntRange(1, 2), default=1, show_default=True)
def export_sam(work: Path, sharpness: float, leniency: float, note: str, world: int) -> None:
    """sam.safetensors of workflows/tiny from WORK/sam.pt.

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
    to, said = HERE / FOLDERS[world] / tiny.WEIGHTS.name, " --world 2" * (world == 2)
    _write(to, weights, model)
    _card(to, model, steps=state["step"], sharpness=sharpness, leniency=leniency,
          note=note, command=f"python workflows/pretrain_tiny/train_sam.py{said} --work DIR && "
                             f"python workflows/pretrain_tiny/export.py sam{said} --work DIR")  # fmt: skip


@main.command("encoder")
@click.option("--work", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--note", default="", help="How the run was made, for the card.")
@click.option("--world", type=click.IntRange(1, 2), default=1, show_default=True)
def export_encoder(work: Path, note: str, world: int) -> None:
    """dinov2.safetensors and attributes.safetensors of workflows/tiny from WORK/encoder.pt."""
    state = torch.load(work / "encoder.pt", weights_only=True)
    encoder, probe = (
        {k.removeprefix(part): v for k, v in state["parts"].items() if k.startswith(part)}
        for part in ("encoder.", "heads.")
    )
    model = features_tiny.build_tiny_dinov2()
    files = (features_tiny.WEIGHTS, features_tiny.PROBE)
    weights, heads = (HERE / FOLDERS[world] / file.name for file in files)
    _write(weights, encoder, model)
    _write(heads, probe, None)
    said = " --world 2" * (world == 2)
    _card(weights, model, steps=state["step"], note=note,
          command=f"python workflows/pretrain_tiny/train_encoder.py{said} --work DIR && "
                  f"python workflows/pretrain_tiny/export.py encoder{said} --work DIR")  # fmt: skip


@main.command("mobile")
@click.option("--work", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--note", default="", help="How the run was made, for the card.")
def export_mobile(work: Path, note: str) -> None:
    """workflows/tiny/world2/mobile_sam.safetensors from WORK/mobile.pt, named as published.

    Prompt encoder and mask decoder are those of the shipped SAM of world 2.
    """
    state = torch.load(work / "mobile.pt", weights_only=True)
    path = HERE / FOLDERS[2] / "mobile_sam.safetensors"
    weights = dict(load_file(path.with_name(tiny.WEIGHTS.name)))
    weights = {k: v for k, v in weights.items() if not k.startswith("image_encoder.")}
    weights |= {f"image_encoder.{k}": v for k, v in state["encoder"].items()}
    _write(path, published_names(weights), None)
    model = build_tiny_mobile()
    model.load_state_dict(map_keys(load_file(path))[0])  # strict
    _card(path, model, steps=state["step"], note=note,
          command="python workflows/pretrain_tiny/train_mobile.py --work DIR && "
                  "python workflows/pretrain_tiny/export.py mobile --work DIR")  # fmt: skip


@main.command("clip")
@click.option("--work", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--note", default="", help="How the run was made, for the card.")
def export_clip(work: Path, note: str) -> None:
    """workflows/tiny/world2/clip.safetensors from WORK/clip.pt: the vision tower, named as published."""
    state = torch.load(work / "clip.pt", weights_only=True)
    vision = {
        k.removeprefix("vision."): v for k, v in state["parts"].items() if k.startswith("vision.")
    }
    model = build_clip(**shape("tiny-clip-world2"))
    model.load_state_dict(vision)  # strict
    path = HERE / FOLDERS[2] / "clip.safetensors"
    _write(path, {f"vision_model.{k}": v for k, v in vision.items()}, None)
    _card(path, model, steps=state["step"], note=note,
          command="python workflows/pretrain_tiny/train_clip.py --work DIR && "
                  "python workflows/pretrain_tiny/export.py clip --work DIR")  # fmt: skip


@main.command("text")
@click.option("--work", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--note", default="", help="How the run was made, for the card.")
def export_text(work: Path, note: str) -> None:
    """workflows/tiny/world2/lm/model.safetensors and its config.json from WORK/text.pt."""
    state = torch.load(work / "text.pt", weights_only=True)
    folder = HERE / FOLDERS[2] / "lm"
    lm = random_lm(lm_config(load_vocabulary(folder).size))
    path = folder / "model.safetensors"
    _write(path, state["lm"], lm)
    _write_config(lm, path)
    _card(path, lm, steps=state["step"], note=note,
          command="python workflows/pretrain_tiny/train_text_lm.py --work DIR && "
                  "python workflows/pretrain_tiny/export.py text --work DIR")  # fmt: skip


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
    _write_config(model.lm, path)
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


def _write_config(lm: Any, path: Path) -> None:
    config = lm.config.to_diff_dict()
    config["architectures"] = ["LlamaForCausalLM"]
    path.with_name("config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


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
