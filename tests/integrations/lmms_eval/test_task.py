"""lmms-eval's tasks: documents of a local data set, figures, and YAML files that name what exists."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from support.asked_set import SIZE
from svp.integrations.lmms_eval import TASKS, task
from svp.integrations.mask_text import answer_text
from svp.pipeline.datasets import Source
from svp.pipeline.datasets.images import read_image
from svp.pipeline.errors import ConfigError, DataError
from svp.pipeline.masks.rle import encode
from svp.train.evaluation.results import read_results
from svp.train.metrics import metrics


class Loader(yaml.SafeLoader):
    """YAML with the names of functions as lmms-eval's loader sees them."""


Loader.add_constructor("!function", lambda loader, node: named(loader.construct_scalar(node)))


def named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def config(path: Path) -> dict[str, Any]:
    """A task's configuration with what it includes."""
    found = yaml.load(path.read_text("utf-8"), Loader)
    inner = found.pop("include", None)
    return {**(config(TASKS / inner) if inner else {}), **found}


@pytest.fixture
def documents(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setenv("SVP_DATASET", str(dataset))
    return task.documents("val")


def test_documents_are_the_expressions_of_the_split(
    documents: list[dict[str, Any]], source: Source
) -> None:
    assert [d["sent_id"] for d in documents] == [s.sent_id for s in source.sentences]
    upright = read_image(source.image_root / "turned.jpg")
    for document in documents:
        (photograph,) = task.photographs(document)
        assert photograph.size == SIZE[::-1] and document["expression"] in task.prompt(document)
        if document["image"] == "turned.jpg":
            np.testing.assert_array_equal(np.asarray(photograph), upright)


def test_figures_of_answers(documents: list[dict[str, Any]], results: Path) -> None:
    """The masks of a result file as answers give its own figures, to the last digit."""
    rows = {row.sent_id: row for row in read_results(results).rows}
    scored = [task.score(d, [answer_text(rows[d["sent_id"]].mask)]) for d in documents]
    wanted = metrics(read_results(results).counts)
    assert task.g_iou([one["gIoU"] for one in scored]) == wanted["gIoU"] < 1
    assert task.c_iou([one["cIoU"] for one in scored]) == wanted["cIoU"] < 1
    right = [task.score(d, [task.target(d)]) for d in documents]
    assert task.g_iou([one["gIoU"] for one in right]) == 1
    everything = answer_text(encode(np.ones(SIZE, np.bool_)))
    wrong = [task.score(d, [everything]) for d in documents]
    assert task.n_acc([one["N_acc"] for one in wrong]) == 0
    assert task.t_acc([one["T_acc"] for one in wrong]) == 1


def test_what_cannot_be_asked(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SVP_DATASET", raising=False)
    with pytest.raises(ConfigError, match="SVP_DATASET is not set"):
        task.documents("val")
    monkeypatch.setenv("SVP_DATASET", str(dataset))
    with pytest.raises(DataError, match="no expression of 'refcocog' in split 'val'"):
        task.documents("val", "refcocog")


def test_every_task_names_what_exists() -> None:
    files = sorted(TASKS.glob("*.yaml"))
    configs = {path: config(path) for path in files}
    names = {found["task"] for found in configs.values() if "group" not in found}
    sets = {
        "res_refcoco": 3,
        "res_refcoco+": 3,
        "res_refcocog": 2,
        "gres": 3,
        "reasonseg": 2,
        "res_own": 4,
    }
    assert len(names) == sum(sets.values()) == len([p for p in files if "_" in p.stem])
    for path, found in configs.items():
        if "group" in found:
            assert found["group"] == path.stem and set(found["task"]) <= names
            continue
        assert (
            path.stem
            == found["task"]
            == f"{found['task'].rpartition('_')[0]}_{found['test_split']}"
        )
        assert found["class"] is task.ResTask and found["process_results"] is task.score
        figures = {metric["metric"]: metric["aggregation"] for metric in found["metric_list"]}
        counts = [(4, 8, 4), (0, 0, 0)]
        assert figures["gIoU"](counts) == 0.75 and figures["cIoU"](counts) == 0.5
        assert ("N_acc" in figures) == found["task"].startswith(("gres", "res_own"))
