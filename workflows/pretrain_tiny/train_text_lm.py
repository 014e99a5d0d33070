"""Train the tiny language model on text of world 2 alone; about an hour on one CPU thread."""

import json
import time
from pathlib import Path

import click
import torch
from lm_model import lm_config, optimisers_of, start_lm
from scene_arrays import step_rng
from schedule import rate_factor, resume, save
from text_data import IGNORE, Story, batch, make_story
from torch.nn import functional as F

from svp.model.language.load import random_lm
from svp.train.data.tokenizer import Vocabulary, load_vocabulary

TOKENIZER = Path(__file__).parents[1] / "tiny" / "world2" / "lm" / "tokenizer.json"
HELD_OUT = 9001  # seed of the scenes the log's second kind of line is about
SEEN = 96  # of them


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Checkpoint folder.")
@click.option("--horizon", default=3600, show_default=True, help="Length of the cosine, steps.")
@click.option("--stop", default=3000, show_default=True, help="Steps done.")
@click.option("--decay", default=500, show_default=True, help="Last steps, down to rate 0.")
@click.option("--scenes", default=12000, show_default=True)
@click.option("--seed", default=4, show_default=True)
@click.option("--texts", default=8, show_default=True, help="Scenes per step.")
@click.option("--rate", default=2e-3, show_default=True, help="Peak learning rate.")
def main(
    work: Path, horizon: int, stop: int, decay: int, scenes: int, seed: int, texts: int, rate: float
) -> None:
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    words = load_vocabulary(TOKENIZER.parent)
    lm = random_lm(lm_config(words.size), seed).train()
    start_lm(lm)
    optimisers, start = optimisers_of(lm, lm, rate), 0
    if (state := resume(work / "text.pt")) is not None:
        lm.load_state_dict(state["lm"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        start = int(state["step"])
    click.echo(f"making {scenes} stories")
    stories = _stories(scenes, seed, "train", work)
    held_out = _stories(SEEN, HELD_OUT, "testA", work)
    clock, ema = time.monotonic(), None
    for step in range(start, stop):
        factor = rate_factor(step, horizon=horizon, stop=stop, warm=100, decay=decay)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * factor
        picks = step_rng(seed, step).integers(scenes, size=texts)
        loss, figures = _loss(lm, [stories[k] for k in picks], words, (seed, step))
        lm.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        known = torch.where(figures.isnan(), figures if ema is None else ema, figures)
        ema = known if ema is None else 0.98 * ema + 0.02 * known  # a step may ask no question
        if (step + 1) % 50 == 0 or step + 1 == stop:
            pace = (time.monotonic() - clock) / (step + 1 - start)
            click.echo(f"{step + 1} {_line(ema)}  {pace:.2f} s")
        if (step + 1) % 250 == 0 or step + 1 == stop:
            saved = [optimiser.state_dict() for optimiser in optimisers]
            save(work / "text.pt", {"lm": lm.state_dict(), "optimisers": saved, "step": step + 1})
            click.echo(f"{step + 1} held out: {_line(_measure(lm, held_out, words))}")


def _loss(
    lm: torch.nn.Module, stories: list[Story], words: Vocabulary, key: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of all text; (all text, answers alone, share of the answers' ids that come first)."""
    ids, labels, of_answers = batch(stories, words, key)
    logits = lm(ids).logits[:, :-1].flatten(0, 1)
    each = F.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="none")
    known, answers = (labels[:, 1:] != IGNORE).flatten(), of_answers[:, 1:].flatten()
    loss = each[known].mean()
    right = logits.argmax(1)[answers] == labels[:, 1:].flatten()[answers]
    figures = [loss.detach(), each.detach()[answers].mean(), right.float().mean()]
    return loss, torch.stack(figures)


@torch.no_grad()
def _measure(lm: torch.nn.Module, stories: list[Story], words: Vocabulary) -> torch.Tensor:
    """The same figures on held-out scenes."""
    found = [
        _loss(lm, stories[first : first + 8], words, (HELD_OUT, first))[1]
        for first in range(0, len(stories), 8)
    ]
    return torch.stack(found).nanmean(0)


def _line(figures: torch.Tensor) -> str:
    names = ("text", "answers", "right")
    return " ".join(f"{name} {value:.3f}" for name, value in zip(names, figures, strict=True))


def _stories(count: int, seed: int, split: str, folder: Path) -> list[Story]:
    """Made once and kept beside the checkpoints."""
    path = folder / f"stories_{split}_{seed}_{count}.json"
    if not path.exists():
        part = path.with_suffix(".part")
        part.write_text(json.dumps([make_story(seed, k, split) for k in range(count)]))
        part.replace(path)
    return [
        Story(tuple(captions), tuple((text, answer) for text, answer in asked))
        for captions, asked in json.loads(path.read_text())
    ]


if __name__ == "__main__":
    main()
