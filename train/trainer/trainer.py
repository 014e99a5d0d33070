"""Resumable two-stage training loop.

Invariant: the state after step n is a function of (recipe, data, n). Where and how often a run was
stopped does not change it; on the CPU in float32 not by a single bit.
"""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pydantic import JsonValue
from torch import Tensor

from ...model.losses import Weights
from ...pipeline.display import counted
from ...pipeline.errors import Interrupted, NonFiniteError, describe
from ...pipeline.process import Stop
from ..data.keyed_rng import key_of
from ..data.loader import CursorState, Step
from ..distributed import together
from ..provenance import libraries
from ..recipe import split_evenly
from .checkpoint import State, checkpoint_path, load_weights
from .checkpoint_writer import CheckpointWriter
from .job import Job, TrainReport, percents
from .monitor import Watch
from .optimizers import learning_rate
from .prepare import enter_stage, make_ready, zero_level
from .run_status import STATUS, status_record
from .step import Counts, StepResult, optimizer_step, sync_counts
from .strategies.base import Strategy

log = logging.getLogger(__name__)

KEPT = "the step was finished and a checkpoint written"
BEST = "gIoU"  # the score that decides which checkpoint is kept as the best


def train(job: Job) -> TrainReport:
    """Run all stages, or those that are left.

    Raises NonFiniteError (the batch is named in the run folder), Interrupted after a checkpoint was
    written, PlanMismatchError if `job.resume` belongs to another run, ConfigError if the global
    batch cannot be split.
    """
    split_evenly(job.recipe, job.accelerator.num_processes)
    with Stop(job.hint, KEPT) as stop:
        return Trainer(job, stop).train()


class Trainer:
    """A run in progress; every attribute that changes is part of a checkpoint."""

    def __init__(self, job: Job, stop: Stop) -> None:
        self.job, self.stop = job, stop
        self.recipe, self.accelerator = job.recipe, job.accelerator
        old = job.resume.state if job.resume else None
        self.step = old.step if old else 0
        self.cursor: CursorState = old.cursor if old else job.stream.start()
        self.skipped = old.skipped if old else 0
        self.scores = dict(old.scores) if old else {}
        self.best = old.best if old else None
        self.trained: set[str] = set(job.taught)
        self.last: StepResult | None = None
        self.numbers: dict[str, float] = {}  # rates at the last logged step
        self.began, self.first = time.monotonic(), self.step
        self.watch = Watch(
            job.recipe.steps, job.recipe.global_batch, self.accelerator.num_processes,
            self.accelerator.device, job.utilisation,
        )  # fmt: skip
        loss = job.recipe.loss
        self.weights = Weights(loss.ce, loss.bce, loss.dice, loss.click, loss.answer)
        remote = job.folder.remote
        self.writer = CheckpointWriter(
            job.folder.checkpoints, job.recipe.run.keep, remote.publish if remote else None
        )

    def train(self) -> TrainReport:
        """Run every remaining stage."""
        # Another recipe or other data would go on from here without a sign of it.
        job, resume = self.job, self.job.resume
        if resume:
            resume.require(self._recipe(), job.stream.identity)
        if self.step == self.recipe.steps:
            self._finish()  # the run that ended here may not have sent all
            return self._report()

        # One stream for all stages: a stage begins at the sample where the one before ended.
        job.folder.open(self.step)
        self._status("running")
        steps = job.stream.steps(self.cursor)
        try:
            while self.step < self.recipe.steps:
                index, done = self.recipe.stage_at(self.step)
                self._train_stage(index, done, steps)
            self._settle()
            self._status("finished")
            self._finish()
        except Exception as error:
            self._status("stopped" if isinstance(error, Interrupted) else "failed")
            self._settle_after_error()
            raise
        finally:
            job.folder.close()
        return self._report()

    def _train_stage(self, index: int, done: int, steps: Iterator[Step]) -> None:
        strategy = self._enter_stage(index, done)
        stage = self.recipe.stages[index]
        for k in range(done, stage.steps):
            # Ranks agree on the loss denominators and on a stop before any of them computes, so
            # that all write the same checkpoint and none waits for one that has left.
            step, counts = self._next(steps)
            if counts.signal:
                self._save(strategy)
                self._settle()
                raise self.stop.error(counts.signal)

            # Dropout depends on the step and the rank alone: a resumed run draws the same.
            rank = self.accelerator.process_index
            torch.manual_seed(key_of(self.recipe.seed, "step", self.step, rank))
            strategy.model.train()
            # One number of tokens per global batch: the same on all ranks and in a resumed run.
            drawn = key_of(self.recipe.seed, "tokens", self.step)
            self.job.model.projector.draw(drawn if stage is self.recipe.stages[-1] else None)
            rate = learning_rate(stage, k)
            result = optimizer_step(strategy, step.batches, counts, self.weights, rate, stage.clip)
            if not result.finite:
                self._handle_nonfinite(index, result, step)

            # A skipped step counts: the learning rate and the order of samples do not shift.
            self.step, self.cursor, self.last = self.step + 1, step.cursor, result
            self.watch.step(step.batches, self.job.model.projector)
            self._log_and_save(strategy, index, result, rate)
        strategy.leave()

    def _next(self, steps: Iterator[Step]) -> tuple[Step, Counts]:
        """The next step and its counts; a rank that cannot read its share ends the run on all."""
        step: Step | None = None
        failure: Exception | None = None
        try:
            step = next(steps)
        except Exception as error:  # noqa: BLE001  raised below, once the other ranks know
            failure = error
        own = step.batches if step else None
        counts = sync_counts(self.accelerator, own, self.stop.received or 0)
        if counts.failed:
            with together("read a batch"):
                if failure is not None:
                    raise failure
        assert step is not None
        return step, counts

    def _enter_stage(self, index: int, done: int) -> Strategy:
        """Prepare stage `index`; a resumed run restores its state after `done` steps."""
        model, resume = self.job.model, self.job.resume
        whole = zero_level(self.accelerator) < 3
        table = make_ready(model, self.recipe, index, self.job.new_rows, single=whole)

        self.watch.enter(model.lm)

        # Weights are loaded before the strategy splits them, optimizer states after it made them.
        resumed = resume is not None and resume.state.step == self.step
        if resume and resumed:
            with together("read the checkpoint's weights"):
                weights = resume.weights()
                load_weights(model, weights, str(resume.path), mapped=not whole)
            self.trained |= weights.keys()
            del weights  # the mapped file, of which a strategy that splits keeps a part
        strategy = enter_stage(self.accelerator, model, self.recipe, index)
        self.trained |= set(strategy.names.values())
        if resume and resumed and done:
            with together("read the checkpoint's optimizer states"):
                states = resume.optimizer()
            strategy.restore(states)
        stage = self.recipe.stages[index]
        self.job.folder.log(
            f"stage {stage.name}: {counted(stage.steps - done, 'step')}, "
            f"{counted(table.trainable, 'trainable parameter')}"
        )
        return strategy

    def _handle_nonfinite(self, index: int, result: StepResult, step: Step) -> None:
        from accelerate.utils import gather_object

        # No micro-batch of its own is to blame where only the sum or the gradient overflowed.
        bad = result.bad or range(len(step.images))
        images = gather_object([name for number in bad for name in step.images[number]])
        record = {name: str(value) for name, value in result.values().items()}
        record |= {"step": str(self.step), "stage": self.recipe.stages[index].name}
        self.skipped += 1
        text = f"step {self.step}: loss {result.loss}, gradient norm {result.norm}"
        if self.job.folder.main:
            name = f"nonfinite-{self.step:08d}.json"
            path = self.job.folder.write_json(name, record | {"images": images})
            text += f"; the batch is named in {path}"
        if self.skipped > self.job.skip:
            raise NonFiniteError(
                f"{text}; images {', '.join(images[:8])}. The step was not taken. Look at these "
                "images and at the learning rate; --skip-nonfinite N drops up to N such steps"
            )
        self.job.folder.log(f"{text}; skipped")

    def _log_and_save(
        self, strategy: Strategy, index: int, result: StepResult, rate: float
    ) -> None:
        """Log, score, show and save, as often as the recipe says."""
        run, stage = self.recipe.run, self.recipe.stages[index]
        end = self.step == sum(one.steps for one in self.recipe.stages[: index + 1])
        logged = end or self.step % run.log == 0
        if logged:
            self.job.folder.log(self._progress(result))
        held: dict[str, float] = {}
        if end or (run.validate_every and self.step % run.validate_every == 0):
            held = self._validate(strategy)
        if logged or held:
            self._status("running")

        # A step that was skipped has no losses: NaN is no number in JSON.
        record = {**(result.values() if result.finite else {}), **held}
        if record:
            self.job.folder.metrics(self.step, {**record, "lr": rate, "stage": stage.name})

        # The checkpoint comes last: a run that is killed before it repeats all of the above.
        if run.preview and (end or self.step % run.preview == 0):
            self._preview(strategy)
        if end or self.step % run.checkpoint == 0:
            self._save(strategy)

    def _validate(self, strategy: Strategy) -> dict[str, float]:
        """Held-out scores as percent, by the names of metrics.jsonl and trackers."""
        if self.job.validate is None:
            return {}
        with self._evaluating(strategy):
            self.scores = dict(self.job.validate(self.job.model))
        if BEST in self.scores and (self.best is None or self.scores[BEST] > self.best):
            self.best = self.scores[BEST]
        self.job.folder.log(f"step {self.step}: held-out {percents(self.scores)}")
        return {f"held-out/{name}": 100 * value for name, value in self.scores.items()}

    def _preview(self, strategy: Strategy) -> None:
        draws = self.job.folder.main and self.job.preview is not None
        if draws or strategy.split:  # the weights of a split model come from all ranks
            with self._evaluating(strategy):
                if draws and self.job.preview:
                    self.job.preview(self.job.model, self.step)

    @contextmanager
    def _evaluating(self, strategy: Strategy) -> Iterator[None]:
        """Evaluation mode; the loop sets training mode again before its next step."""
        self.job.model.eval()
        with torch.no_grad(), strategy.usable(), strategy.autocast():
            yield

    def _save(self, strategy: Strategy) -> None:
        # After the last step there is no stage to be in: the one past the end, with none done.
        main = self.job.folder.main
        index, done = (
            self.recipe.stage_at(self.step)
            if self.step < self.recipe.steps
            else (len(self.recipe.stages), 0)
        )

        # One copy at a time: the checkpoint before is on the disk first, or its error ends the run.
        self._settle()

        # What is split comes from all ranks: every one takes part in both gathers, one writes. A
        # stage's end needs no optimizer state: the next stage starts a fresh one.
        weights: dict[str, Tensor] = {}
        optimizer: dict[str, Tensor] = {}
        if main or strategy.split:
            weights = strategy.weights(sorted(self.trained), keep=main)
            optimizer = strategy.state(keep=main) if done else {}
        if main:
            self.writer.save(self._state(index, done), weights, optimizer)

    def _settle(self) -> None:
        """Wait for the checkpoint under way; an error of its writer is raised on all ranks."""
        with together("checkpoint"):
            self.writer.wait()

    def _finish(self) -> None:
        """Send what is not at the run's address yet."""
        with together("send the run"):
            if remote := self.job.folder.remote:
                remote.publish(self.recipe.run.keep, self.job.hint)

    def _settle_after_error(self) -> None:
        """The same when the run ends with another error, which goes first; ranks may be gone."""
        try:
            self.writer.wait()
        except Exception as second:  # noqa: BLE001  told, not raised: it would hide the first one
            log.error(f"the last checkpoint was not written: {describe(second)}")

    def _state(self, stage: int, done: int) -> State:
        return State(
            schema_version=1, step=self.step, stage=stage, stage_step=done, recipe=self._recipe(),
            data=dict(self.job.stream.identity), cursor=dict(self.cursor),
            world=self.accelerator.num_processes, micro_batch=self.recipe.run.images,
            skipped=self.skipped, scores=self.scores, best=self.best, stage_end=done == 0 < self.step,
            libraries=libraries(), sam=self.job.sam,
            features=self.job.features,
        )  # fmt: skip

    def _progress(self, result: StepResult) -> str:
        rates, numbers = self.watch.read(self.step)
        self.numbers = numbers
        if self.job.folder.main:
            self.job.folder.track(self.step, numbers)
        losses = f"loss {result.loss:.4f} (ce {result.ce:.4f} bce {result.bce:.4f} "
        more = "".join(f" {name} {value:.4f}" for name, value in result.more.items())
        losses += f"dice {result.dice:.4f}{more}) norm {result.norm:.3f}"
        held = f", held-out {BEST} {100 * self.scores[BEST]:.2f}" if BEST in self.scores else ""
        return f"step {self.step}/{self.recipe.steps}: {losses}{held}; {rates}"

    def _status(self, state: str) -> None:
        """Tell `svp status` how far the run is."""
        if not self.job.folder.main:
            return
        numbers = self.numbers | self.watch.left
        if self.last is not None and self.last.finite:
            numbers["loss"] = self.last.loss
        if BEST in self.scores:
            numbers[BEST] = 100 * self.scores[BEST]
        last = self.step == self.recipe.steps
        stage = self.recipe.stages[-1 if last else self.recipe.stage_at(self.step)[0]].name
        self.job.folder.write_json(STATUS, status_record(
            state, step=self.step, steps=self.recipe.steps, stage=stage, numbers=numbers,
            resume=self.job.hint,
        ))  # fmt: skip

    def _recipe(self) -> dict[str, JsonValue]:
        value: dict[str, JsonValue] = json.loads(self.recipe.canonical())
        return value

    def _report(self) -> TrainReport:
        losses = {n: float(v) for n, v in self.last.values().items()} if self.last else {}
        saved = checkpoint_path(self.job.folder.checkpoints, self.step)
        return TrainReport(
            self.job.folder.path, saved, self.step, time.monotonic() - self.began,
            (self.step - self.first) * self.recipe.global_batch, losses, self.scores, self.skipped,
            self.job.left_out, address=self.job.folder.name if self.job.folder.remote else "",
        )  # fmt: skip
