"""Pretrain the tiny language model, L-P projector and mask decoder: the stand-in for GLaMM.

The plain MLP projector over all patches, dialogues of many turns about generated scenes, and two
helps that are thrown away afterwards: a pointer (the [SEG] state must pick the target's patches
among the visual tokens' states) and dropped patches (place has to come from what a patch says, not
from where it stands in the sequence).
"""

import sys
import time
from pathlib import Path

import click
import numpy as np
import torch
from ris_data import RisData, ris_data
from ris_task import Tiny, build, make_batch, step_losses
from scene_arrays import step_rng
from schedule import rate_factor, resume, save


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Checkpoint folder.")
@click.option("--horizon", default=12000, show_default=True, help="Length of the cosine, steps.")
@click.option("--stop", default=12000, show_default=True, help="Steps done.")
@click.option("--decay", default=1500, show_default=True, help="Last steps, down to rate 0.")
@click.option("--scenes", default=8000, show_default=True)
@click.option("--seed", default=4, show_default=True)
@click.option("--images", default=8, show_default=True, help="Images per step.")
@click.option("--turns", default=10, show_default=True, help="Sentences per dialogue.")
@click.option("--kept", default=0.5, show_default=True, help="Share of patches on most steps.")
@click.option("--rate", default=1e-3, show_default=True, help="Peak learning rate.")
@click.option("--threads", default=1, show_default=True)
def main(
    work: Path, horizon: int, stop: int, decay: int, scenes: int, seed: int, images: int,
    turns: int, kept: float, rate: float, threads: int,
) -> None:  # fmt: skip
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    work.mkdir(parents=True, exist_ok=True)
    tiny = build(seed)
    weights = [p for p in tiny.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    start = 0
    if (state := resume(work / "ris.pt")) is not None:
        tiny.load_state_dict(state["parts"])
        optimiser.load_state_dict(state["optimiser"])
        start = int(state["step"])
    data, held_out = (
        ris_data(scenes, seed, work.parent / "ris"),
        ris_data(64, 9001, work.parent / "ris", split="testA"),
    )
    clock, ema = time.monotonic(), None
    for step in range(start, stop):
        for group in optimiser.param_groups:
            group["lr"] = rate * rate_factor(
                step, horizon=horizon, stop=stop, warm=300, decay=decay
            )
        rng = step_rng(seed, step)
        batch = make_batch(data, rng, images, turns, tiny.words)
        share = kept if rng.random() < 0.75 else 1.0
        losses = step_losses(tiny, batch, share, rng)
        optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        now = torch.stack([v.detach() for v in losses.values()])
        ema = now if ema is None else 0.98 * ema + 0.02 * now
        if (step + 1) % 50 == 0 or step + 1 == stop:
            pace = (time.monotonic() - clock) / (step + 1 - start)
            figures = " ".join(f"{k} {v:.3f}" for k, v in zip(losses, ema.tolist(), strict=True))
            click.echo(f"{step + 1} {figures}  {pace:.2f} s")
        if (step + 1) % 250 == 0 or step + 1 == stop:
            save(
                work / "ris.pt",
                {"parts": tiny.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1},
            )
            click.echo(f"{step + 1} held out: {measure(tiny, held_out)}")
            sys.stdout.flush()


def measure(tiny: Tiny, data: RisData) -> str:
    """Mean IoU and pointer accuracy on held-out scenes, all patches."""
    rng = np.random.default_rng(0)
    with torch.no_grad():
        parts = []
        for first in range(0, len(data.labels), 16):
            rows = np.arange(first, min(first + 16, len(data.labels)))
            batch = make_batch(data, rng, len(rows), 8, tiny.words, rows=rows)
            parts.append(step_losses(tiny, batch, 1.0, rng, 1000))
    return " ".join(f"{k} {torch.stack([p[k] for p in parts]).mean():.3f}" for k in parts[0])


if __name__ == "__main__":
    main()
