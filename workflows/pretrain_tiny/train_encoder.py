"""Train the tiny encoder on generated scenes; about an hour on one CPU thread."""

import time
from pathlib import Path

import click
import encoder_world2
import torch
from encoder_task import batch, change, draw_shifts, heads, loss_terms, shifted
from safetensors.torch import load_file
from scene_arrays import SceneArrays, step_rng
from schedule import rate_factor, resume, save

from svp.pipeline.encoders.tiny import PROBE, REGISTERS, WEIGHTS, WIDTH, build_tiny_dinov2


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Checkpoint folder.")
@click.option("--horizon", default=6000, show_default=True, help="Length of the cosine, steps.")
@click.option("--stop", default=5800, show_default=True, help="Steps done.")
@click.option(
    "--shift-from",
    default=5000,
    show_default=True,
    help="From here on positions are shifted and features must not change.",
)
@click.option("--decay", default=600, show_default=True, help="Last steps, down to rate 0.")
@click.option("--scenes", default=6000, show_default=True)
@click.option("--seed", default=2, show_default=True)
@click.option("--images", default=12, show_default=True, help="Images per step.")
@click.option("--stem-from", default=0, show_default=True, help="Convolutions learn from here.")
@click.option("--rate", default=1e-3, show_default=True, help="Peak learning rate.")
@click.option(
    "--go-on", is_flag=True, help="Start from the shipped encoder, not from random values."
)
@click.option("--world", type=click.IntRange(1, 2), default=1, show_default=True)
def main(
    work: Path, horizon: int, stop: int, shift_from: int, decay: int, scenes: int, seed: int,
    images: int, stem_from: int, rate: float, go_on: bool, world: int,
) -> None:  # fmt: skip
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    work.mkdir(parents=True, exist_ok=True)
    parts = torch.nn.ModuleDict({
        "encoder": build_tiny_dinov2().train(),
        "heads": heads(WIDTH) if world == 1 else encoder_world2.heads(WIDTH),
        # Thrown away later. World 1: where the owner of a patch ends, to teach shape and size
        # faster. World 2: how much of each quarter of a patch belongs to a thing.
        "extent": torch.nn.Linear(WIDTH, 4),
        "place": torch.nn.Linear(WIDTH, 16),
    })  # fmt: skip
    if go_on:
        for name, file in (("encoder", WEIGHTS), ("heads", PROBE)):
            parts[name].load_state_dict({k: v.float() for k, v in load_file(file).items()})
    weights = list(parts.parameters())
    optimiser = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.98), weight_decay=0.02)
    stem = list(parts["encoder"].embeddings.patch_embeddings.projection.stem.parameters())
    start = 0
    if (state := resume(work / "encoder.pt")) is not None:
        parts.load_state_dict(state["parts"])
        optimiser.load_state_dict(state["optimiser"])
        start = int(state["step"])
    click.echo(f"making {scenes} scenes")
    data = (SceneArrays if world == 1 else encoder_world2.PatchArrays)(scenes, seed, work)
    clock, ema = time.monotonic(), None
    for step in range(start, stop):
        for group in optimiser.param_groups:
            group["lr"] = rate * rate_factor(
                step, horizon=horizon, stop=stop, warm=100, decay=decay
            )
        rng = step_rng(seed, step)
        picks = rng.integers(scenes, size=images)
        if world == 1:
            chosen = batch(data, picks, rng.integers(2, size=images))
        else:
            chosen = encoder_world2.batch(data, picks)
        if step < shift_from:
            out = parts["encoder"](pixel_values=chosen.images).last_hidden_state
            patches, place, still = out[:, 1 + REGISTERS :], parts["place"], None
        else:
            patches, still = (
                shifted(parts["encoder"], chosen.images, draw_shifts(images, rng, share))
                for share in (0.0, 0.5)
            )
            place = None
        asked = loss_terms if world == 1 else encoder_world2.loss_terms
        loss, right = asked(patches, parts["extent"], place, parts["heads"], chosen)
        if still is not None:
            loss = loss + change(patches, still)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if step < stem_from:
            for weight in stem:
                weight.grad = None  # AdamW leaves it alone
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        now = torch.tensor([loss.item(), *right.values()])
        ema = now if ema is None else 0.98 * ema + 0.02 * now
        if (step + 1) % 50 == 0 or step + 1 == stop:
            pace = (time.monotonic() - clock) / (step + 1 - start)
            figures = " ".join(f"{v:.3f}" for v in ema.tolist())
            click.echo(f"{step + 1} loss {' '.join(right)}: {figures}  {pace:.2f} s")
        if (step + 1) % 250 == 0 or step + 1 == stop:
            state = {"parts": parts.state_dict(), "optimiser": optimiser.state_dict()}
            save(work / "encoder.pt", state | {"step": step + 1})


if __name__ == "__main__":
    main()
