"""Pretrain the tiny language model, L-P projector and mask decoder: the stand-in for GLaMM.

The plain MLP projector over all patches, and dialogues of many turns about generated scenes. On most
steps only a share of the patches is shown: it is faster, and place has to come from what a patch
says, not from where it stands in the sequence; superpixels will have no fixed place there.
"""

import time
from pathlib import Path

import click
import numpy as np
import torch
from ris_data import RisData, ris_data
from ris_task import Tiny, build, make_lesson, step_losses
from scene_arrays import step_rng
from schedule import rate_factor, resume, save

HELD_OUT = 9001  # seed of the scenes the log's second kind of line is about
OFTEN = 0.75  # share of steps that show `kept` of the patches, others show all


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Checkpoint folder.")
@click.option("--horizon", default=9000, show_default=True, help="Length of the cosine, steps.")
@click.option("--stop", default=6000, show_default=True, help="Steps done.")
@click.option("--decay", default=1200, show_default=True, help="Last steps, down to rate 0.")
@click.option("--scenes", default=4000, show_default=True)
@click.option("--seed", default=3, show_default=True)
@click.option("--images", default=8, show_default=True, help="Images per step.")
@click.option("--turns", default=10, show_default=True, help="Sentences per dialogue.")
@click.option("--decoded", default=24, show_default=True, help="Masks decoded per step.")
@click.option("--kept", default=0.5, show_default=True, help="Share of patches on most steps.")
@click.option("--rate", default=1e-3, show_default=True, help="Peak learning rate.")
def main(
    work: Path, horizon: int, stop: int, decay: int, scenes: int, seed: int, images: int,
    turns: int, decoded: int, kept: float, rate: float,
) -> None:  # fmt: skip
    torch.set_num_threads(1)
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
    click.echo(f"making {scenes} scenes")
    data, held_out = ris_data(scenes, seed, work), ris_data(64, HELD_OUT, work, split="testA")
    clock, ema = time.monotonic(), None
    for step in range(start, stop):
        for group in optimiser.param_groups:
            group["lr"] = rate * rate_factor(
                step, horizon=horizon, stop=stop, warm=300, decay=decay
            )
        rng = step_rng(seed, step)
        lesson = make_lesson(data, rng.integers(scenes, size=images), rng, turns, tiny.words)
        share = kept if rng.random() < OFTEN else 1.0
        losses = step_losses(tiny, lesson, rng, share=share, decoded=decoded)
        optimiser.zero_grad(set_to_none=True)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        now = torch.stack([value.detach() for value in losses.values()])
        ema = now if ema is None else 0.98 * ema + 0.02 * now
        if (step + 1) % 50 == 0 or step + 1 == stop:
            pace = (time.monotonic() - clock) / (step + 1 - start)
            click.echo(f"{step + 1} {_line(losses, ema)}  {pace:.2f} s")
        if (step + 1) % 250 == 0 or step + 1 == stop:
            state = {"parts": tiny.state_dict(), "optimiser": optimiser.state_dict()}
            save(work / "ris.pt", state | {"step": step + 1})
            click.echo(f"{step + 1} held out: {_measure(tiny, held_out)}")


@torch.no_grad()
def _measure(tiny: Tiny, data: RisData) -> str:
    """All figures on held-out scenes, all patches shown, all masks decoded."""
    rng, found = np.random.default_rng(0), []
    for first in range(0, len(data.labels), 16):
        rows = np.arange(first, min(first + 16, len(data.labels)))
        lesson = make_lesson(data, rows, rng, 8, tiny.words)
        losses = step_losses(tiny, lesson, rng, share=1.0, decoded=len(rows) * 8)
        found.append(torch.stack(list(losses.values())))
    return _line(losses, torch.stack(found).mean(0))


def _line(names: dict[str, torch.Tensor], values: torch.Tensor) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in zip(names, values, strict=True))


if __name__ == "__main__":
    main()
