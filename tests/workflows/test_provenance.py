"""docs/provenance.md lists every value of the paper's recipe as it is, and nothing calls guesses stated."""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import svp
from svp.model.projectors import ANSWERS
from svp.model.projectors.svp import SVP
from svp.pipeline.precompute.options import Flags, resolve
from svp.train.options import TrainFlags, resolve_train

ROOT = Path(svp.__file__).parent
TEXT = (ROOT / "docs" / "provenance.md").read_text()
LINE = re.compile(r"^\| ([\w.]+) \| `([^`]*)` \| (\w+) \| (.+) \| `([^`]+)` \|$", re.MULTILINE)
ROWS = {name: (value, status, why) for name, value, status, why, _ in LINE.findall(TEXT)}


def flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Dotted names of a recipe's fields; stages by number."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from flat(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, item in enumerate(value):
            yield from flat(item, f"{name}.{index}")
    else:
        yield name, value


def expected() -> dict[str, object]:
    train, _ = resolve_train("paper", None, TrainFlags(), (), weights=False)
    flags = Flags(sam_weights="random", encoder_weights="random")
    cache, _ = resolve("paper", None, flags, (), Path())
    made = inspect.signature(SVP).parameters
    found = dict(flat(train.model_dump(mode="json", exclude={"run", "name"})))
    found |= {
        name: value
        for name, value in flat(cache.model_dump(mode="json"))
        if not name.endswith("weights") and name != "libraries"
    }
    return {**found, ANSWERS: False} | {
        name: one.default for name, one in made.items() if name not in ("in_dim", "llm_dim", "grid")
    }


def test_every_field_with_its_value() -> None:
    wanted = expected()
    assert set(ROWS) >= set(wanted), sorted(set(wanted) - set(ROWS))
    wrong = {n: ROWS[n][0] for n, value in wanted.items() if json.loads(ROWS[n][0]) != value}
    assert not wrong
    gone = {name for name in ROWS if name not in wanted}
    assert not gone, "fields that no recipe has"


def test_every_status_is_one_of_four_and_has_a_reason() -> None:
    assert {status for _, status, _ in ROWS.values()} == {"stated", "derived", "guess", "ours"}
    assert all(len(why) > 2 for _, _, why in ROWS.values())
    guesses = {name for name, (_, status, _) in ROWS.items() if status == "guess"}
    assert guesses >= {
        "num_queries", "sspe.budget", "mlp_hidden", "ssa_ffn", "model.vision.view",
        "superpixels.preset", "model.lora.targets", "global_batch", "stages.0.trains",
    }  # fmt: skip


def test_recipes_and_documents_point_here() -> None:
    for name in (
        "workflows/train/paper.yaml",
        "workflows/precompute/paper.yaml",
        "docs/training.md",
    ):
        assert "provenance.md" in (ROOT / name).read_text(), name
    for name in ("model/projectors/svp/drop_in.py", "docs/training.md", "train/recipe.py"):
        text = (ROOT / name).read_text()
        assert "the paper's setting" not in text and "paper's recipe is the default" not in text, (
            name
        )
