"""Train the tiny SAM on generated scenes; about an hour on one CPU thread."""

import time
from pathlib import Path

import click
import torch
from sam_task import LOW, batch, forward, initialise, loss_terms
from scene_arrays import SceneArrays, step_rng
from schedule import rate_factor, resume, save
from torch.nn import functional as F

from svp.pipeline.sam.tiny import EMBED_DIM, build_tiny_sam


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Checkpoint folder.")
@click.option("--horizon", default=8700, show_default=True, help="Length of the cosine, steps.")
@click.option("--stop", default=8700, show_default=True, help="Steps done.")
@click.option("--decay", default=600, show_default=True, help="Last steps, down to rate 0.")
@click.option("--scenes", default=4000, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--images", default=8, show_default=True, help="Images per step.")
@click.option("--points", default=10, show_default=True, help="Points per image.")
@click.option("--stem-from", default=0, show_default=True, help="Convolutions learn from here.")
@click.option("--rate", default=1e-3, show_default=True, help="Peak learning rate.")
@click.option("--world", type=click.IntRange(1, 2), default=1, show_default=True)
def main(
    work: Path, horizon: int, stop: int, decay: int, scenes: int, seed: int,
    images: int, points: int, stem_from: int, rate: float, world: int,
) -> None:  # fmt: skip
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    work.mkdir(parents=True, exist_ok=True)
    sam = build_tiny_sam().train()
    initialise(sam)
    # A second head on the embedding, thrown away later: it says where things end, everywhere at
    # once, and so teaches the encoder faster than single prompts do.
    extent = torch.nn.Conv2d(EMBED_DIM, 8 * (LOW // 16) ** 2, 1)
    weights = [*sam.parameters(), *extent.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    stem = list(sam.image_encoder.patch_embed.stem.parameters())
    start = 0
    if (state := resume(work / "sam.pt")) is not None:
        sam.load_state_dict(state["sam"])
        extent.load_state_dict(state["extent"])
        optimiser.load_state_dict(state["optimiser"])
        start = int(state["step"])
    click.echo(f"making {scenes} scenes")
    data = SceneArrays(scenes, seed, work, world)
    clock, ema = time.monotonic(), None
    for step in range(start, stop):
        for group in optimiser.param_groups:
            group["lr"] = rate * rate_factor(step, horizon=horizon, stop=stop, warm=50, decay=decay)
        pictures, xy, targets, boxes = batch(data, step_rng(seed, step), images, points)
        embedding, logits, iou = forward(sam, pictures, xy)
        loss, quality = loss_terms(logits, iou, targets.flatten(0, 1))
        aux = F.l1_loss(F.pixel_shuffle(extent(embedding), LOW // 16), boxes)
        optimiser.zero_grad(set_to_none=True)
        (loss + 2 * aux).backward()
        if step < stem_from:
            for weight in stem:
                weight.grad = None  # AdamW leaves it alone
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        now = torch.tensor([loss.item(), aux.item(), *quality.tolist()])
        ema = now if ema is None else 0.98 * ema + 0.02 * now
        if (step + 1) % 50 == 0 or step + 1 == stop:
            pace = (time.monotonic() - clock) / (step + 1 - start)
            figures = " ".join(f"{v:.3f}" for v in ema.tolist())
            click.echo(f"{step + 1} loss aux iou(single sub part whole): {figures}  {pace:.2f} s")
        if (step + 1) % 250 == 0 or step + 1 == stop:
            state = {"sam": sam.state_dict(), "extent": extent.state_dict()}
            save(work / "sam.pt", state | {"optimiser": optimiser.state_dict(), "step": step + 1})


if __name__ == "__main__":
    main()
