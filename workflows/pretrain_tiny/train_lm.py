"""Pretrain the tiny language model, L-P projector and mask decoder, the stand-in for GLaMM.

The plain MLP projector, and dialogues of many turns about generated scenes. What is shown changes
from step to step (lm_visual_inputs.py): all patches, some, or a few larger pieces.
"""

import time
from itertools import product
from pathlib import Path

import click
import numpy as np
import torch
from lm_data import RisData, lm_data
from lm_model import optimisers_of
from lm_task import SIGHTS, TOKENIZER, TOLD, Tiny, build, draw_sight, make_lesson, step_losses
from safetensors.torch import load_file
from scene_arrays import step_rng
from schedule import rate_factor, resume, save

HELD_OUT = 9001  # seed of the scenes the log's second kind of line is about


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Checkpoint folder.")
@click.option("--horizon", default=5500, show_default=True, help="Length of the cosine, steps.")
@click.option("--stop", default=4000, show_default=True, help="Steps done.")
@click.option("--decay", default=1000, show_default=True, help="Last steps, down to rate 0.")
@click.option("--scenes", default=6000, show_default=True)
@click.option("--seed", default=3, show_default=True)
@click.option("--images", default=8, show_default=True, help="Images per step.")
@click.option("--turns", default=10, show_default=True, help="Sentences per dialogue.")
@click.option("--decoded", default=24, show_default=True, help="Masks decoded per step.")
@click.option("--rate", default=2e-3, show_default=True, help="Peak learning rate.")
@click.option("--go-on", is_flag=True, help="Start from the shipped model, not from random values.")
def main(
    work: Path, horizon: int, stop: int, decay: int, scenes: int, seed: int, images: int,
    turns: int, decoded: int, rate: float, go_on: bool,
) -> None:  # fmt: skip
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    work.mkdir(parents=True, exist_ok=True)
    tiny = build(seed)
    if go_on:
        shipped = load_file(TOKENIZER.with_name("ris.safetensors"))
        tiny.model.load_state_dict({name: value.float() for name, value in shipped.items()})
    weights = [p for p in tiny.parameters() if p.requires_grad]
    optimisers = optimisers_of(tiny, tiny.model.lm, rate)
    start = 0
    if (state := resume(work / "ris.pt")) is not None:
        tiny.load_state_dict(state["parts"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        start = int(state["step"])
    click.echo(f"making {scenes} scenes")
    data, held_out = lm_data(scenes, seed, work), lm_data(64, HELD_OUT, work, split="testA")
    clock, ema = time.monotonic(), None
    for step in range(start, stop):
        factor = rate_factor(step, horizon=horizon, stop=stop, warm=100, decay=decay)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * factor
        rng = step_rng(seed, step)
        lesson = make_lesson(data, rng.integers(scenes, size=images), rng, turns, tiny.words)
        sight = draw_sight(lesson, rng)
        told = rng.random() < TOLD
        losses = step_losses(tiny, lesson, sight, rng, told=told, decoded=decoded)
        tiny.zero_grad(set_to_none=True)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        now = torch.stack([value.detach() for value in losses.values()])
        ema = now if ema is None else 0.98 * ema + 0.02 * now
        if (step + 1) % 50 == 0 or step + 1 == stop:
            pace = (time.monotonic() - clock) / (step + 1 - start)
            click.echo(f"{step + 1} {_line(losses, ema)}  {pace:.2f} s")
        if (step + 1) % 250 == 0 or step + 1 == stop:
            saved = [optimiser.state_dict() for optimiser in optimisers]
            state = {"parts": tiny.state_dict(), "optimisers": saved, "step": step + 1}
            save(work / "ris.pt", state)
            for kind, told in product(SIGHTS, (False, True)):
                figures = _measure(tiny, held_out, kind, told)
                click.echo(f"{step + 1} held out, {kind}, told {told}: {figures}")


@torch.no_grad()
def _measure(tiny: Tiny, data: RisData, kind: str, told: bool) -> str:
    """All figures on held-out scenes with all patches, or with pieces; all masks decoded."""
    rng, found = np.random.default_rng(0), []
    for first in range(0, len(data.labels), 16):
        rows = np.arange(first, min(first + 16, len(data.labels)))
        lesson = make_lesson(data, rows, rng, 8, tiny.words)
        sight = SIGHTS[kind](lesson, rng)
        losses = step_losses(tiny, lesson, sight, rng, told=told, decoded=len(rows) * 8, noise=0.0)
        found.append(torch.stack(list(losses.values())))
    return _line(losses, torch.stack(found).mean(0))


def _line(names: dict[str, torch.Tensor], values: torch.Tensor) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in zip(names, values, strict=True))


if __name__ == "__main__":
    main()
