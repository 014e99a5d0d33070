"""Turn the recipes' checkpoints into the shipped files: float16 weights and a card of facts."""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save_file

from svp.pipeline import features_tiny
from svp.pipeline.sam import tiny

HERE = Path(__file__).parent


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command("sam")
@click.option("--work", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--sharpness", default=2.0, show_default=True,
              help="Factor on the mask logits; changes stability, but no mask.")  # fmt: skip
@click.option("--note", default="", help="How the run was made, for the card.")
def export_sam(work: Path, sharpness: float, note: str) -> None:
    """workflows/tiny/sam.safetensors from WORK/sam.pt."""
    state = torch.load(work / "sam.pt", weights_only=True)
    weights = state["sam"]
    for name, value in weights.items():
        if name.startswith("mask_decoder.output_hypernetworks_mlps") and ".layers.2." in name:
            value.mul_(sharpness)
    model = tiny.build_tiny_sam()
    _write(tiny.WEIGHTS, weights, model)
    _card(tiny.WEIGHTS, model, steps=state["step"], sharpness=sharpness, note=note,
          command="python workflows/tiny/train_sam.py --work DIR && "
                  "python workflows/tiny/export.py sam --work DIR")  # fmt: skip


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
          command="python workflows/tiny/train_encoder.py --work DIR && "
                  "python workflows/tiny/export.py encoder --work DIR")  # fmt: skip


def _write(path: Path, weights: dict[str, Any], model: torch.nn.Module | None) -> None:
    """float16 on disk; what is loaded, and measured, is exactly that, up-cast."""
    half = {name: value.half().contiguous() for name, value in weights.items()}
    if model is not None:
        model.load_state_dict(half)  # strict
    part = path.with_suffix(".part")
    save_file(half, part)
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
