"""Train the tiny CLIP of world 2 on its scenes and what is said of their things.

Contrastive, with nothing but images and words: no mask, box or label of a patch. The text is the name
of a thing as captions give it; how well it fits an image is how well it fits the patch of it that it
fits best (FILIP, arXiv 2111.07783), each pair by itself a yes or no (SigLIP, arXiv 2303.15343), on
images of which two thirds of the patches are left out (FLIP, arXiv 2212.00794). The text tower is thrown
away, as systems that read CLIP's patches do. A few minutes on one CPU thread.
"""

import math
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from encoder_world2 import PatchArrays
from numpy.typing import NDArray
from scene_arrays import step_rng
from schedule import rate_factor, resume, save
from torch import Tensor, nn
from torch.nn import functional as F

from svp.pipeline.datasets.world2.captions import full_name
from svp.pipeline.datasets.world2.make import make_layout
from svp.pipeline.encoders.clip import build_clip, shape
from svp.pipeline.fetch.encoder_specs import CLIP_MEAN, CLIP_STD
from svp.train.data.tokenizer import Vocabulary, load_vocabulary

NAME = "tiny-clip-world2"
TOKENIZER = Path(__file__).parents[1] / "tiny" / "world2" / "lm"
SHARED = 64  # channels in which texts and patches are compared
LONGEST = 40  # ids of a name
SHARPEST = 20.0  # of the soft maximum over patches


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Checkpoint folder.")
@click.option("--stop", default=600, show_default=True, help="Steps done.")
@click.option("--horizon", default=600, show_default=True, help="Length of the cosine, steps.")
@click.option("--decay", default=200, show_default=True, help="Last steps, down to rate 0.")
@click.option("--scenes", default=6000, show_default=True, help="Those of train_encoder.py.")
@click.option("--seed", default=2, show_default=True)
@click.option("--images", default=24, show_default=True, help="Images per step.")
@click.option("--kept", default=0.3, show_default=True, help="Share of the patches that is read.")
@click.option("--rate", default=1e-3, show_default=True, help="Peak learning rate.")
def main(
    work: Path,
    horizon: int,
    stop: int,
    decay: int,
    scenes: int,
    seed: int,
    images: int,
    kept: float,
    rate: float,
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    work.mkdir(parents=True, exist_ok=True)
    words = load_vocabulary(TOKENIZER)
    parts = nn.ModuleDict({
        "vision": build_clip(**shape(NAME)),
        "text": TextTower(words.size),
        "head": nn.Linear(shape(NAME)["hidden"], SHARED, bias=False),
        "scale": Scale(),
    }).train()  # fmt: skip
    weights = list(parts.parameters())
    optimiser = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.98), weight_decay=0.02)
    start = 0
    if (state := resume(work / "clip.pt")) is not None:
        parts.load_state_dict(state["parts"])
        optimiser.load_state_dict(state["optimiser"])
        start = int(state["step"])
    click.echo(f"making {scenes} scenes")
    data = PatchArrays(scenes, seed, work).images
    names = [_names(seed, index) for index in range(scenes)]
    clock, ema = time.monotonic(), None
    for step in range(start, stop):
        for group in optimiser.param_groups:
            group["lr"] = rate * rate_factor(step, horizon=horizon, stop=stop, warm=50, decay=decay)
        rng = step_rng(seed, step)
        picks = rng.integers(scenes, size=images)
        texts = sorted(set().union(*(names[k] for k in picks)))
        true = torch.tensor([[text in names[k] for text in texts] for k in picks])
        patches = parts["head"](_patches(parts["vision"], data[picks], rng, kept))
        fits = _fit(patches, parts["text"](_ids(texts, words)))
        loss = _loss(parts["scale"](fits), true)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        now = torch.tensor([loss.item(), _found(fits.detach(), true)])
        ema = now if ema is None else 0.98 * ema + 0.02 * now
        if (step + 1) % 50 == 0 or step + 1 == stop:
            pace = (time.monotonic() - clock) / (step + 1 - start)
            said = f"loss {ema[0]:.3f}, texts whose best image of {images} has it {ema[1]:.3f}"
            click.echo(f"{step + 1} {said}  {pace:.2f} s")
        if (step + 1) % 100 == 0 or step + 1 == stop:
            saved = {"parts": parts.state_dict(), "optimiser": optimiser.state_dict()}
            save(work / "clip.pt", saved | {"step": step + 1})


class TextTower(nn.Module):
    """ids (T,L), 0 behind the end, to unit vectors (T,SHARED)."""

    def __init__(self, vocabulary: int, width: int = 96) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(LONGEST, width)
        self.block = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, SHARED, bias=False))

    def forward(self, ids: Tensor) -> Tensor:
        behind = ids == 0
        said = self.words(ids) + self.places.weight[: ids.shape[1]]
        read = self.block(said, src_key_padding_mask=behind).masked_fill(behind[..., None], 0.0)
        return F.normalize(self.head(read.sum(1) / (~behind).sum(1, keepdim=True)), dim=-1)


class Scale(nn.Module):
    """Cosines to logits, with SigLIP's start: 10 times the cosine, less 10."""

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def forward(self, fits: Tensor) -> Tensor:
        return fits * self.log.exp() + self.bias


def _names(seed: int, index: int) -> set[str]:
    """Names that captions give the things of a scene of `PatchArrays`."""
    scene = make_layout(seed, index, difficulty=25 * (index % 5))
    return {full_name(thing) for thing in scene.things}


def _ids(texts: list[str], words: Vocabulary) -> Tensor:
    rows = [words.encode(text)[:LONGEST] for text in texts]
    out = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, found in zip(out, rows, strict=True):
        row[: len(found)] = torch.tensor(found)
    return out


def _patches(
    vision: Any, images: NDArray[np.uint8], rng: np.random.Generator, kept: float
) -> Tensor:
    """(B,P',C) last states of a random share of the patches, the same for all images of a step."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    pixels = (pixels - torch.tensor(CLIP_MEAN)[:, None, None]) / torch.tensor(CLIP_STD)[
        :, None, None
    ]
    tokens = vision.embeddings(pixels)
    count = tokens.shape[1] - 1
    some = np.sort(rng.permutation(count)[: round(kept * count)])
    tokens = tokens[:, torch.from_numpy(np.concatenate([[0], 1 + some]))]
    states = vision.encoder(inputs_embeds=vision.pre_layrnorm(tokens)).last_hidden_state
    found: Tensor = vision.post_layernorm(states)
    # CLS is one of those a text may fit best: what no single patch shows.
    return found


def _fit(patches: Tensor, texts: Tensor) -> Tensor:
    """(B,T) soft maximum over the patches of their cosine with a text."""
    cosines = F.normalize(patches, dim=-1) @ texts.T
    return (SHARPEST * cosines).logsumexp(1) / SHARPEST - math.log(cosines.shape[1]) / SHARPEST


def _loss(logits: Tensor, true: Tensor) -> Tensor:
    signs = torch.where(true, 1.0, -1.0)
    return -F.logsigmoid(signs * logits).sum() / true.sum()


def _found(fits: Tensor, true: Tensor) -> float:
    """Share of the texts that are true of the image they fit best."""
    return float(true[fits.argmax(0), torch.arange(true.shape[1])].float().mean())


if __name__ == "__main__":
    main()
