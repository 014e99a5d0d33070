"""`--model svp` of lmms-eval: each request is answered by a JSON text with masks as COCO RLE."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NoReturn

import torch

from ...pipeline.display import counted, show
from ...pipeline.errors import ConfigError
from ...train.runs.answer import Answer
from ...train.runs.segmenter import load

try:
    from lmms_eval.api.model import lmms
except ImportError:  # the class is only built by lmms-eval, which is there then
    lmms = object


class SvpModel(lmms):  # type: ignore[misc,unused-ignore]
    """A model of svp as lmms-eval sees one; `--model_args` are the arguments.

    pretrained  as `svp.load` takes it
    device      auto, cpu, cuda, cuda:N; None: of several processes each takes its own CUDA device
    size, cache, budget  as of `svp.load`
    generate    let the model answer by itself instead of teacher-forcing [SEG]
    batch_size  expressions of one photograph in a forward pass; the photograph is encoded once

    Raises what `svp.load` raises.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        size: str | None = None,
        cache: str | None = None,
        budget: str | None = None,
        generate: bool = False,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ConfigError(f"batch_size={show(batch_size)}: need a number >= 1")
        self.batch_size, self.generate = int(batch_size), bool(generate)
        self.device = torch.device(_own_device(device))
        budget = None if budget is None else str(budget)  # lmms-eval reads budget=16 as a number
        self._segmenter = load(
            pretrained, device=str(self.device), size=size, cache=cache, budget=budget
        )

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """`{"masks": [COCO RLE], "scores": [float]}` per request, no mask for "no such object".

        The expression is the document's field `expression`, or the whole prompt where it has none.
        Raises ConfigError for a request without exactly one photograph.
        """
        from tqdm import tqdm

        answers: list[str] = []
        with tqdm(total=len(requests), desc="svp", disable=self.rank != 0) as bar:
            for _, group in groupby(requests, key=self._photograph):
                asked = list(group)
                for found in self._answers(asked):
                    answers.append(written(found))
                    bar.update()
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> NoReturn:
        """Raises ConfigError: a mask is no choice between texts."""
        raise ConfigError("--model svp answers with masks: it has no likelihood of a text")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> NoReturn:
        """Raises ConfigError: every expression is a dialogue of its own."""
        raise ConfigError("--model svp answers one expression per request, in one round")

    def clean(self) -> None:
        """Free the model, as lmms-eval does before it scores."""
        self._segmenter.close()
        super().clean()

    def _answers(self, asked: Sequence[Any]) -> Iterator[Answer]:
        """The answers to requests about one photograph."""
        visuals: Sequence[Any] = asked[0].args[2](self._document(asked[0])) or ()
        if len(visuals) != 1:
            raise ConfigError(
                f"task {show(asked[0].args[4])}: a request with {counted(len(visuals), 'photograph')}: "
                "--model svp answers about one"
            )
        session = self._segmenter.image(visuals[0])
        texts = [str(self._document(one).get("expression") or one.args[0]) for one in asked]
        for start in range(0, len(texts), self.batch_size):
            yield from session(texts[start : start + self.batch_size], generate=self.generate)

    def _document(self, request: Any) -> Mapping[str, Any]:
        _, _, _, doc_id, task, split = request.args
        document: Mapping[str, Any] = self.task_dict[task][split][doc_id]
        return document

    def _photograph(self, request: Any) -> tuple[object, ...]:
        """Key of the photograph: requests with equal ones are about the same one."""
        document, (_, _, _, doc_id, task, split) = self._document(request), request.args
        if "image_root" in document:
            return document["image_root"], document["image"]
        return task, split, doc_id


def written(answer: Answer) -> str:
    """The answer as lmms-eval's tasks read masks."""
    masks = [answer.record()["mask"]] if answer.area else []
    return json.dumps({"masks": masks, "scores": [answer.score] if masks else []})


def _own_device(device: str | None) -> str:
    rank = os.environ.get("LOCAL_RANK")
    if device in (None, "cuda") and rank is not None and torch.cuda.is_available():
        return f"cuda:{int(rank)}"
    if device in (None, "auto"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(device)
