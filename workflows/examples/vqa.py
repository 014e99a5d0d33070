"""Example: SVP in another multimodal model, a LLaVA-style question answerer.

    python workflows/examples/vqa.py        a few minutes on one core

Asked "what colour is the <shape>?", a small LLaMA, trained from nothing, answers with one word. The
only vision in it is `SVPProjector`: frozen patch features and superpixels in, tokens out. `Answerer`
is the whole of what another model needs; the rest is the toy around it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from svp.model.language.load import random_lm
from svp.model.merge import merge
from svp.model.projectors.svp.drop_in import SVPProjector
from svp.pipeline.datasets.scenes import make_scene
from svp.pipeline.datasets.scenes.vocab import COLOURS, SHAPES
from svp.pipeline.encoders import build_encoder
from svp.pipeline.recipe import FeatureConfig, GridConfig, SuperpixelConfig
from svp.pipeline.records import LocalPaths, Superpixels
from svp.pipeline.superpixels.generator import build_generator

WORDS = ("<pad>", "<image>", "colour", *SHAPES, *COLOURS)
WIDTH = 64


class Answerer(nn.Module):
    """A language model that sees: this is all it takes to put SVP into one."""

    def __init__(self, lm: Any, width: int) -> None:
        super().__init__()
        self.lm = lm
        self.projector = SVPProjector(
            in_dim=96, llm_dim=width, size=128, num_queries=2, sspe_dim=16, sspe_heads=2,
            sspe_blocks=1, sspe_ffn=32, ssa_heads=4, ssa_blocks=1, ssa_ffn=96, mlp_hidden=96,
        )  # fmt: skip

    def forward(self, features: Tensor, superpixels: list[Superpixels], ids: Tensor) -> Tensor:
        """Features (B,P,C), superpixels, ids (B,T) with <image> first -> scores of the next word."""
        tokens, valid = self.projector(features, superpixels)
        length = torch.full((len(ids),), ids.shape[1])
        merged = merge(self.lm.get_input_embeddings()(ids), length, length * 0, tokens, valid)
        states = self.lm.model(inputs_embeds=merged.embeds, use_cache=False).last_hidden_state
        scores: Tensor = self.lm.lm_head(states[torch.arange(len(ids)), merged.lengths - 1])
        return scores


@dataclass(frozen=True)
class Questions:
    """One question per row: ids (R,T), answers (R,), the scene (R,) each is about."""

    features: Tensor
    superpixels: list[Superpixels]
    ids: Tensor
    answers: Tensor
    scene: list[int]


def questions(scenes: int, seed: int = 5) -> Questions:
    """Ask for every shape that is unique in its scene; features and superpixels are frozen."""
    made = [make_scene(seed, index) for index in range(scenes)]
    images: list[np.ndarray[Any, np.dtype[np.uint8]]] = [one.image for one in made]
    sam = SuperpixelConfig(preset="custom", grid=GridConfig(points_per_side=6))
    found, _ = build_generator(sam, LocalPaths(Path())).generate_batch(images)
    features = build_encoder(FeatureConfig(), LocalPaths(Path()), "cpu").encode(images).patches
    rows = []
    for index, one in enumerate(made):
        shapes = [thing.shape for thing in one.scene.things]
        for thing in one.scene.things:
            if shapes.count(thing.shape) == 1:
                rows.append((index, thing.shape, thing.colour))
    ids = [[WORDS.index(w) for w in ("<image>", "colour", shape)] for _, shape, _ in rows]
    answers = [WORDS.index(colour) for _, _, colour in rows]
    return Questions(
        torch.from_numpy(features), found, torch.tensor(ids), torch.tensor(answers),
        [index for index, _, _ in rows],
    )  # fmt: skip


def train(
    asked: Questions, steps: int, batch: int = 16, seed: int = 0
) -> tuple[Answerer, list[float]]:
    """A model trained from nothing on the questions, and its loss by step."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=128, pad_token_id=0,
    )  # fmt: skip
    model = Answerer(random_lm(config, seed), WIDTH).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    draw, losses = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        rows = torch.randint(len(asked.ids), (batch,), generator=draw).tolist()
        loss = nn.functional.cross_entropy(answer(model, asked, rows), asked.answers[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return model.eval(), losses


def answer(model: Answerer, asked: Questions, rows: list[int]) -> Tensor:
    """Scores (len(rows), words)."""
    scenes = [asked.scene[row] for row in rows]
    result: Tensor = model(
        asked.features[scenes], [asked.superpixels[scene] for scene in scenes], asked.ids[rows]
    )
    return result


def accuracy(model: Answerer, asked: Questions) -> float:
    """Share of the questions answered right."""
    with torch.inference_mode():
        said = answer(model, asked, list(range(len(asked.ids)))).argmax(1)
    return float((said == asked.answers).float().mean())


if __name__ == "__main__":
    seen = questions(160)
    trained, history = train(seen, 600)
    print(f"loss {np.mean(history[:20]):.2f} -> {np.mean(history[-20:]):.2f}")
    print(f"right: {accuracy(trained, seen):.0%} of the questions trained on, "
          f"{accuracy(trained, questions(40, seed=6)):.0%} of new scenes; "
          f"chance level {1 / len(COLOURS):.0%}")  # fmt: skip
