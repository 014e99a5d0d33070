"""Runner of the speed comparison: models, optimizers and inputs of a preset, one case at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

from ...model.batch import Batch
from ...model.inference.compiled import Passes
from ...model.inference.precision import arithmetic, cast_weights, input_dtype
from ...model.losses import Weights
from ...pipeline.process import compiles
from ..recipe import ModelConfig, StageConfig, TrainRecipe
from ..trainer.optimizers import build_optimizer
from ..trainer.prepare import make_ready
from .components import CAPTURED, Lap, answer, counts_of, finish_step, forward, train_batch
from .inputs import ANSWER, TURN, LiveEncoders, cached_batch, opened
from .models import build_models
from .presets import Preset

SENTENCES = 3  # per image in training, as GLaMM
Work = Literal["train", "forward", "batch", "captured", "generate"]
STAGES = (
    StageConfig(name="stage1", steps=3500, add_sspe=False),
    StageConfig(name="stage2", steps=1750, lora=True),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One cell of the comparison; `stage` is 1 or 2 in training, 0 in inference."""

    work: Work
    projector: str
    live: bool
    stage: int = 0

    @property
    def what(self) -> str:
        """The work, without projector and inputs."""
        return f"stage {self.stage}" if self.stage else self.work

    @property
    def where(self) -> str:
        """Origin of the encoder outputs, as text."""
        return "live" if self.live else "from cache"


class Runner:
    """Runs cases. Training stages are entered in order, as adapters stay."""

    def __init__(self, preset: Preset, projectors: Sequence[str], device: str) -> None:
        self.preset, self.device = preset, torch.device(device)
        self.models = build_models(preset, projectors, self.device)
        self._lap: Lap = _ignore
        self._optimizers: dict[str, Optimizer] = {}
        self._batches: dict[tuple[str, int, int], Batch] = {}
        self._seg: dict[Case, int] = {}
        self._passes: dict[str, Passes] = {}

    def enter(self, stage: int) -> None:
        """Set what trains, with optimizers whose states exist, as from the second step on."""
        config = ModelConfig(dtype=self.preset.dtype)
        recipe = TrainRecipe(stages=STAGES[:stage], model=config)
        self._optimizers = {}
        for name, model in self.models.items():
            make_ready(model, recipe, stage - 1)
            if compiles(self.device.type):
                model.projector.compile_project()
            model.train()
            trained = [p for p in model.parameters() if p.requires_grad]
            optimizer = build_optimizer(recipe.optimizer, trained, STAGES[stage - 1], self.device)
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
            self._optimizers[name] = optimizer

    def answer(self) -> None:
        """Nothing trains: weights get the dtype of answers."""
        for model in self.models.values():
            cast_weights(model)

    def run(self, case: Case, lap: Lap) -> list[int]:
        """Do the work of `case` once; `lap` is told of its parts. Returns the visual tokens of each
        image."""
        self._lap = lap
        if case.work == "train":
            return self._train(case)
        images = self.preset.batch if case.work == "batch" else 1
        batch = self._input(case, images, sentences=1)
        if case.work in ("forward", "batch"):
            forward(self.models[case.projector], batch, lap)
        elif case.work == "captured":
            self._captured(case, batch)
        else:
            seg, count = self._seg.get(case, -1), self.preset.answer
            ids = answer(self.models[case.projector], opened(batch), lap, seg, count)
            self._seg.setdefault(case, ids[-3])
        return self._tokens(case, batch)

    def prepare(self, case: Case) -> None:
        """Before `case` is measured: what an untrained model says third from last plays [SEG]."""
        if case.work == "generate":
            self.run(case, _ignore)
        if case.work == "captured":  # compiled, captured, launched
            for _ in range(3):
                self.run(case, _ignore)

    def foreign(self, case: Case) -> int:
        """Bytes on the device that only other cases need: their projectors, optimizer states, and
        the encoders if `case` reads from a cache.
        """
        own, others = self.models[case.projector], set(self.models) - {case.projector}
        needed = {p.data_ptr() for p in own.parameters()}
        parts: list[nn.Module] = [self.models[name].projector for name in others]
        parts += self._live.modules if "_live" in self.__dict__ and not case.live else []
        tensors = [p for part in parts for p in (*part.parameters(), *part.buffers())]
        for name in others & set(self._optimizers):
            states = self._optimizers[name].state.values()
            tensors += [v for state in states for v in state.values() if torch.is_tensor(v)]
        sizes = {t.data_ptr(): t.nbytes for t in tensors if t.device.type == self.device.type}
        return sum(size for at, size in sizes.items() if at not in needed)

    def text(self, case: Case) -> tuple[int, int]:
        """Text ids of a dialogue of `case`, and how many of them are supervised."""
        sentences = SENTENCES if case.work == "train" else 1
        return self.preset.prompt + (sentences - 1) * TURN, sentences * ANSWER

    @torch.no_grad()
    def _captured(self, case: Case, batch: Batch) -> None:
        """As "forward", the language model and what is before it as one graph."""
        model = self.models[case.projector]
        if case.projector not in self._passes:
            backend = "inductor" if self.device.type == "cuda" else "aot_eager"
            self._passes[case.projector] = Passes(model, backend)
        with arithmetic(model):
            self._passes[case.projector].predict(batch)
        self._lap(CAPTURED)

    def _train(self, case: Case) -> list[int]:
        images, micro = (
            self.preset.images,
            self.preset.micro.get(case.projector, min(self.preset.micro.values())),
        )
        model, tokens = self.models[case.projector], []
        sizes = [min(micro, images - first) for first in range(0, images, micro)]
        cached = [self._cached(case.projector, size, SENTENCES) for size in sizes]
        counts = counts_of(cached)
        for size in sizes:
            batch = self._input(case, size, SENTENCES)
            train_batch(model, batch, self._lap, Weights(), counts)
            tokens += self._tokens(case, batch)
        finish_step(model, self._optimizers[case.projector], self._lap)
        return tokens

    def _tokens(self, case: Case, batch: Batch) -> list[int]:
        fixed = self.models[case.projector].projector.num_tokens(batch.visual.grid)
        if fixed is not None:
            return [fixed] * len(batch.ids)
        assert batch.visual.valid is not None
        counts: list[int] = batch.visual.valid.sum(1).tolist()
        return counts

    def _input(self, case: Case, images: int, sentences: int) -> Batch:
        batch = self._cached(case.projector, images, sentences)
        if case.live:
            batch = self._live.into(batch)
        batch = batch.to(self.device, input_dtype(self.models[case.projector]))
        self._lap("copy")
        return batch

    def _cached(self, projector: str, images: int, sentences: int) -> Batch:
        key = projector, images, sentences
        if key not in self._batches:
            made = cached_batch(self.preset, projector, images, sentences=sentences)
            self._batches[key] = made
        return self._batches[key]

    @cached_property
    def _live(self) -> LiveEncoders:
        return LiveEncoders(self.preset, self.device, lambda part: self._lap(part))


def _ignore(part: str) -> None:
    pass
