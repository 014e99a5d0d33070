"""Distil the tiny MobileSAM from the tiny SAM of world 2; about eight minutes on one CPU thread.

As MobileSAM was made (arXiv 2306.14289, section 3.2): the encoder learns the teacher's embedding of
each image by its squared error alone. The decoder is the teacher's and learns nothing.
"""

import time
from pathlib import Path

import click
import numpy as np
import torch
from encoder_world2 import PatchArrays
from numpy.typing import NDArray
from scene_arrays import step_rng
from schedule import rate_factor, resume, save
from torch import Tensor
from torch.nn import functional as F

from svp.pipeline.recipe import SuperpixelConfig
from svp.pipeline.records import LocalPaths
from svp.pipeline.sam.load import load_sam
from svp.pipeline.sam.tiny_mobile import build_tiny_mobile

TEACHER = "tiny-world2"


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Checkpoint folder.")
@click.option("--stop", default=600, show_default=True, help="Steps done.")
@click.option("--horizon", default=600, show_default=True, help="Length of the cosine, steps.")
@click.option("--decay", default=250, show_default=True, help="Last steps, down to rate 0.")
@click.option("--scenes", default=6000, show_default=True, help="Those of train_encoder.py.")
@click.option("--seed", default=2, show_default=True)
@click.option("--images", default=16, show_default=True, help="Images per step.")
@click.option("--rate", default=2e-3, show_default=True, help="Peak learning rate.")
def main(
    work: Path,
    stop: int,
    horizon: int,
    decay: int,
    scenes: int,
    seed: int,
    images: int,
    rate: float,
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    work.mkdir(parents=True, exist_ok=True)
    teacher, _ = load_sam(SuperpixelConfig(model=TEACHER), LocalPaths(Path()))
    teacher.requires_grad_(False)
    student = build_tiny_mobile().image_encoder.train()
    weights = list(student.parameters())
    optimiser = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    start = 0
    if (state := resume(work / "mobile.pt")) is not None:
        student.load_state_dict(state["encoder"])
        optimiser.load_state_dict(state["optimiser"])
        start = int(state["step"])
    click.echo(f"making {scenes} scenes")
    data = PatchArrays(scenes, seed, work)
    clock, ema = time.monotonic(), None
    for step in range(start, stop):
        for group in optimiser.param_groups:
            group["lr"] = rate * rate_factor(step, horizon=horizon, stop=stop, warm=50, decay=decay)
        pixels = _turned(data.images, step_rng(seed, step), images)
        pixels = (pixels - teacher.pixel_mean) / teacher.pixel_std
        with torch.no_grad():
            wanted = teacher.image_encoder(pixels)
        loss = F.mse_loss(student(pixels), wanted)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        now = (loss.detach() / wanted.var()).item()
        ema = now if ema is None else 0.98 * ema + 0.02 * now
        if (step + 1) % 50 == 0 or step + 1 == stop:
            pace = (time.monotonic() - clock) / (step + 1 - start)
            click.echo(f"{step + 1} error in units of the variance: {ema:.4f}  {pace:.2f} s")
        if (step + 1) % 250 == 0 or step + 1 == stop:
            state = {"encoder": student.state_dict(), "optimiser": optimiser.state_dict()}
            save(work / "mobile.pt", state | {"step": step + 1})


def _turned(pictures: NDArray[np.uint8], rng: np.random.Generator, count: int) -> Tensor:
    """(B,3,H,W) float of `count` scenes, each in one of 8 flips and turns and 6 orders of colours.

    The teacher's embedding of what a scene became is the target, so no label has to be turned.
    """
    out = []
    for k in rng.integers(len(pictures), size=count):
        picture = pictures[k][..., rng.permutation(3)]
        flip, turn = rng.integers(2), rng.integers(4)
        out.append(np.rot90(picture[:, ::-1] if flip else picture, turn))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).float()


if __name__ == "__main__":
    main()
