"""World 2: the same bytes for ever, phrases that are true of exactly their targets, pairs that only
parts or outlines tell apart.
"""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from svp.pipeline.datasets import open_dataset
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.datasets.scenes.rng import Rng
from svp.pipeline.datasets.world2 import MadeScene, make_scene, vocabulary
from svp.pipeline.datasets.world2.phrases import facts
from svp.pipeline.datasets.world2.sampling import Thing
from svp.pipeline.datasets.world2.silhouettes import part_map, silhouette_mask, turns
from svp.pipeline.errors import ConfigError, DataError

SCENES = 40


@pytest.fixture(scope="module")
def made() -> list[MadeScene]:
    return [make_scene(0, k, difficulty=25 * (k % 5)) for k in range(SCENES)]


def test_same_pictures_and_phrases_for_ever() -> None:
    """A change of this digest changes every scene: raise FORMAT in scenes/write.py with it."""
    digest = hashlib.sha256()
    for key in ((0, 0, "train", 0), (7, 3, "val", 100), (1, 250, "testB", 50)):
        scene = make_scene(*key[:3], difficulty=key[3])
        for part in (scene.image, scene.labels.whole, scene.labels.part):
            digest.update(part.tobytes())
        digest.update(repr(scene.phrases).encode())
    assert digest.hexdigest() == "a3fdee5d4a19dd51d0bb6d10de9e0280d4d7c4a2f874d370e1211b9679f0ff30"


@pytest.mark.parametrize("side", vocabulary.SIDES.values())
@pytest.mark.parametrize("silhouette", vocabulary.SILHOUETTES)
def test_silhouettes_fill_their_box(silhouette: str, side: int) -> None:
    """Neither box nor area tells one from another, but for the square and the disc."""
    seen = set()
    for turn in range(turns(silhouette)):
        mask = silhouette_mask(silhouette, turn, side)
        assert mask.any(0).all() and mask.any(1).all()
        share = {"square": 1.0, "disc": 0.785}.get(silhouette, 5 / 9)
        assert mask.mean() == pytest.approx(share, abs=0.02)
        seen.add(mask.tobytes())
    assert len(seen) == turns(silhouette)
    looks = {np.rot90(silhouette_mask(silhouette, 0, side), k).tobytes() for k in range(4)}
    assert seen == looks, "every turn that looks different has its words"


@pytest.mark.parametrize("side", vocabulary.SIDES.values())
@pytest.mark.parametrize("silhouette", ["square", "disc"])
@pytest.mark.parametrize("name", ["stack", "row", "stack of three", "row of three", "quarters"])
def test_exchanged_parts_have_equal_areas(name: str, silhouette: str, side: int) -> None:
    mask = silhouette_mask(silhouette, 0, side)
    areas = np.bincount(part_map(name, side)[mask], minlength=6)[1:]
    areas = areas[areas > 0]
    assert len(areas) == vocabulary.ARRANGEMENTS[name]
    assert areas.tolist() == areas[::-1].tolist()


def test_everything_shows(made: list[MadeScene]) -> None:
    for scene in made:
        counts = np.bincount(scene.labels.whole.ravel(), minlength=len(scene.names) + 1)
        assert counts[0] == 0 and len(counts) == len(scene.names) + 1
        grounds = len(scene.scene.regions)
        assert counts[1 : grounds + 1].min() >= 400
        for thing, shown in zip(scene.scene.things, counts[grounds + 1 :], strict=True):
            least = 0.9 if thing.kind in ("binding", "outline") else 0.6
            assert shown >= least * thing.mask.sum()
        assert ((scene.labels.part > 0) == (scene.labels.whole > grounds)).all()


def test_twins_differ_in_nothing_but_what_the_group_is_for(made: list[MadeScene]) -> None:
    kinds = set()
    for scene in made:
        groups = itertools.groupby(scene.scene.things, key=lambda thing: (thing.group, thing.kind))
        for (_, kind), members in groups:
            first, second, *_ = [*members, None, None]
            if kind == "binding" and first and second:
                assert sorted(first.coats, key=str) == sorted(second.coats, key=str)
                assert first.coats != second.coats and first.side == second.side
                assert (first.mask == second.mask).all()
                kinds.add(kind)
            if kind == "outline" and first and second:
                assert first.coats == second.coats and first.side == second.side
                assert (first.mask != second.mask).any()
                kinds.add(kind)
    assert kinds == {"binding", "outline"}


def true_of(text: str, things: tuple[Thing, ...]) -> list[int]:
    """The things an expression without comparison names, read word by word from the description."""
    words = text.removeprefix("every ")
    found = []
    for number, thing in enumerate(things):
        paints, bindings = facts(thing)
        turn = vocabulary.TURNS.get(thing.silhouette, ("",) * 4)[thing.turn]
        whole = thing.arrangement == "whole"
        for size, paint, noun, tail in itertools.product(
            ("", thing.size), ("", *(paints if whole else ())), ("thing", thing.silhouette),
            ("", turn, *(bindings + paints if not whole else ())),
        ):  # fmt: skip
            if " ".join(filter(None, (size, paint, noun, tail))) == words:
                found.append(number)
                break
    return found


def test_phrases_are_true_of_exactly_their_targets(made: list[MadeScene]) -> None:
    checked, classes = 0, set()
    for scene in made:
        things = scene.scene.things
        for phrase in scene.phrases:
            classes |= set(phrase.classes)
            comparing = {"position", "relation", "negation"} & set(phrase.classes)
            ranked = phrase.text.startswith(("largest", "smallest"))
            if not comparing and not ranked:
                assert true_of(phrase.text, things) == sorted(phrase.targets), phrase
                checked += 1
            assert len(phrase.targets) == {"several": len(phrase.targets), "none": 0}.get(
                phrase.classes[-1] if phrase.classes else "", 1
            )
    assert checked > 10 * SCENES and classes == set(vocabulary.CLASSES)


def test_positions_read_from_the_picture(made: list[MadeScene]) -> None:
    """A superlative of place is checked against the pixels, not the description."""
    checked = 0
    for scene in made:
        grounds = len(scene.scene.regions)
        for phrase in scene.phrases:
            word, _, rest = phrase.text.partition(" ")
            if word not in ("leftmost", "rightmost") or "position" not in phrase.classes:
                continue
            group = true_of(rest, scene.scene.things)
            xs = {k: np.nonzero(scene.labels.whole == grounds + 1 + k)[1].mean() for k in group}
            best = (min if word == "leftmost" else max)(xs, key=lambda k: xs[k])
            others = [abs(xs[k] - xs[best]) for k in group if k != best]
            if min(others) > 6:  # hidden pixels move a centre by a few
                assert phrase.targets == (best,)
                checked += 1
    assert checked > SCENES / 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(
        tmp_path_factory.mktemp("world2") / "a", images=8, seed=4, world=2, difficulty=75
    )


def test_written_sets_open_like_any_other(folder: Path) -> None:
    """REFER and JSONL hold the same sentences; groups are one mask, the union of their things."""
    refer = open_dataset(str(folder / "refcoco"), split="train")
    lines = [json.loads(line) for line in (folder / "scenes.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["split"] == "train"]
    assert {s.sent for s in refer.sentences} == {line["expression"] for line in train}
    classes = json.loads((folder / "word_classes.json").read_bytes())["sentences"]
    made = make_scene(4, 0, difficulty=75)
    first = len(made.scene.regions) + 1
    several = [phrase for phrase in made.phrases if len(phrase.targets) > 1]
    for phrase in several:
        line = next(
            line
            for line in train
            if line["image"].endswith("train_000000.png") and line["expression"] == phrase.text
        )
        assert "several" in classes[line["id"]]
        union = np.isin(made.labels.whole, [first + k for k in phrase.targets])
        height, width = line["mask"]["size"]
        from pycocotools import mask as coco

        assert (coco.decode(line["mask"]).astype(bool) == union).all() and union.shape == (
            height,
            width,
        )
    assert several


def test_absent_things_are_told_apart(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "no_target.jsonl").read_text().splitlines()]
    spoken = (folder / "scenes.jsonl").read_text()
    assert lines and all((folder / line["image"]).exists() for line in lines)
    assert all("none" not in line for line in spoken.splitlines())


def test_folders_of_other_worlds_are_not_taken_for_these(folder: Path) -> None:
    assert write_scenes(folder, images=8, seed=4, world=2, difficulty=75) == folder
    for other in ({"world": 2}, {"world": 2, "difficulty": 74}, {}):
        with pytest.raises(DataError, match="other scenes"):
            write_scenes(folder, images=8, seed=4, **other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [{"world": 3}, {"world": 1, "difficulty": 5}, {"world": 2, "difficulty": 101}],
)
def test_impossible_worlds_are_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        write_scenes(tmp_path / "x", images=1, seed=0, **wrong)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_a_stream_is_its_own() -> None:
    """World 2 draws from other streams than world 1 does for the same seed and index."""
    assert Rng(2, 0, 0, 0, 128, 128, 50).below(1 << 30) != Rng(0, 0, 0, 128, 128).below(1 << 30)
