"""Write scenes to disk in every input format: COCO + REFER, JSONL and PNG.

    <out>/images/<split>_<index>.png
    <out>/refcoco/instances.json, <out>/refcoco/refs(unc).p
    <out>/annotations/instances.json   the same objects for COCO's API
    <out>/scenes.jsonl            one expression per line; with `no_target` also those of nothing
    <out>/word_classes.json       word classes of each sentence
    <out>/no_target.jsonl         world 2: expressions that are true of nothing in their image
    <out>/captions.jsonl          with `captions`, world 2: texts about whole images
    <out>/digest.json             written last: what was asked for, and the sha256 of the above

The published REFER loaders (lichengunc/refer refer.py, and GLaMM's and LISA's) take a list as
`segmentation`: of polygons, or of RLE dicts. COCO's API takes the dict itself: hence two files.

Masks are visible pixels; an expression for several things has an annotation of its own, their union,
of category `group`. Ids say where they come from, so they do not depend on the number of
scenes: image = split * 1,000,000 + index + 1, annotation = image * 100 + object, sentence =
annotation * 10 + number.
"""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...display import show
from ...errors import ConfigError, DataError
from ...io.atomic import writing
from .generated import DIGEST
from .make import SIZE, SPLITS, MadeScene, make_scene
from .vocab import REGIONS, SHAPES

FORMAT: Final = {1: 2, 2: 1}  # by world; raise it when equal arguments would give other bytes
SHARES: Final = {"train": 0.7, "val": 0.1, "testA": 0.1, "testB": 0.1}
_GROUP: Final = "group"
_TABLES: Final = ("refcoco/instances.json", "annotations/instances.json", "refcoco/refs(unc).p",
                  "scenes.jsonl", "word_classes.json")  # fmt: skip
_NO_TARGET: Final = "no_target.jsonl"
_CAPTIONS: Final = "captions.jsonl"


@dataclass(frozen=True, slots=True)
class _World:
    """World of a data set: its generator, its categories, and its entry in digest.json."""

    make: Callable[[int, int, str, tuple[int, int]], Any]
    things: tuple[str, ...]
    grounds: tuple[str, ...]
    asked: dict[str, object]

    @property
    def categories(self) -> tuple[str, ...]:
        groups = (_GROUP,) if "world" in self.asked else ()
        return (*self.things, *self.grounds, *groups)


def write_scenes(
    out: Path,
    *,
    images: int,
    seed: int,
    splits: Mapping[str, int] | None = None,
    size: tuple[int, int] = SIZE,
    world: int = 1,
    difficulty: int | None = None,
    no_target: bool = False,
    captions: bool = False,
) -> Path:
    """Write the scenes under `out` and return it; a folder already finished is left as it is.

    splits      scenes per split; None: 70, 10, 10 and 10 % of `images` (which must equal their sum)
    size        (height, width) of every scene
    world       1, or 2 (see `datasets.world2`)
    difficulty  of world 2, 0 to 100; None: 50
    no_target   scenes.jsonl also holds expressions that are true of nothing, with an empty mask
    captions    of world 2: write captions.jsonl too, for `data.task: caption`

    The folder appears complete or not at all. Raises ConfigError for impossible numbers,
    DataError if `out` holds something else.
    """
    counts, source = _counts(images, splits), _world(world, difficulty, no_target, captions)
    asked = {"format": FORMAT[world], "seed": seed, "splits": counts, "size": list(size)}
    asked |= source.asked
    if out.exists() and not out.is_dir():
        raise DataError(f"{show(str(out))} is a file, scenes are a folder: choose another name")
    if out.exists() and any(out.iterdir()):
        return _finished(out, asked)
    part = out.with_name(f".{out.name}.part-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        (part / "images").mkdir(parents=True)
        (part / "refcoco").mkdir()
        (part / "annotations").mkdir()
        digests = _write_all(part, source, seed, counts, size)
        _write(part / DIGEST, _json({**asked, "sha256": digests}))
        if out.exists() and not any(out.iterdir()):
            out.rmdir()
        part.replace(out)
    except OSError:
        if out.exists() and any(out.iterdir()):  # another process was faster
            return _finished(out, asked)
        with writing(out):
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _world(number: int, difficulty: int | None, no_target: bool, captions: bool) -> _World:
    also: dict[str, object] = {"no_target": True} if no_target else {}
    if captions:
        if number != 2:
            raise ConfigError(f"world={number} has no captions: ask for them with --world 2")
        also["captions"] = True
    if number == 1 and difficulty is None:
        return _World(partial(make_scene, absent=no_target), SHAPES, tuple(REGIONS), also)
    if number != 2:
        raise ConfigError(
            f"world={number}, difficulty={difficulty}: there are world 1, which has no difficulty, "
            "and world 2"
        )
    from ..world2 import DIFFICULTY, vocabulary  # late: it builds on this package
    from ..world2 import make_scene as make_scene2

    level = DIFFICULTY if difficulty is None else difficulty
    make = partial(make_scene2, difficulty=level)
    asked: dict[str, object] = {"world": number, "difficulty": level, **also}
    return _World(make, vocabulary.SILHOUETTES, tuple(vocabulary.GROUNDS), asked)


def _counts(images: int, splits: Mapping[str, int] | None) -> dict[str, int]:
    if splits is None:
        counts = {name: int(images * share) for name, share in SHARES.items()}
        counts["train"] += images - sum(counts.values())
    else:
        counts = {name: splits.get(name, 0) for name in SPLITS}
        if unknown := sorted(set(splits) - set(SPLITS)):
            raise ConfigError(f"splits={show(unknown)}: allowed are {', '.join(SPLITS)}")
    if images < 1 or min(counts.values()) < 0 or sum(counts.values()) != images:
        raise ConfigError(f"images={images}, splits={counts}: need images >= 1, equal to the sum")
    if max(counts.values()) > 999_999:
        raise ConfigError(f"images={images}: at most 999,999 per split")
    return counts


def _finished(out: Path, asked: dict[str, object]) -> Path:
    try:
        found = json.loads((out / DIGEST).read_bytes())
    except (OSError, ValueError):
        raise DataError(
            f"{show(str(out))} is not empty and holds no finished scenes: choose another folder"
        ) from None
    got = (
        {
            key: found.get(key)
            for key in {**asked, "world": None, "no_target": None, "captions": None}
        }
        if isinstance(found, dict)
        else {}
    )
    asked = {"world": None, "no_target": None, "captions": None, **asked}  # older ones have none
    if got == asked:
        return out
    if got | {"format": asked["format"]} == asked:
        raise DataError(
            f"{show(str(out))} was written by another version of svp, whose scenes differ: remove "
            "it, or choose another folder"
        )
    raise DataError(
        f"{show(str(out))} holds other scenes than those asked for: choose another folder"
    )


@dataclass(slots=True)
class _Tables:
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    refs: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    classes: dict[str, list[str]] = field(default_factory=dict)
    untrue: list[str] = field(default_factory=list)
    nothing: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)


def _write_all(
    root: Path, world: _World, seed: int, counts: Mapping[str, int], size: tuple[int, int]
) -> dict[str, str]:
    """Write all files; the sha256 of each table and of all images in order."""
    tables, pictures = _Tables(), hashlib.sha256()
    for split in SPLITS:
        for index in range(counts[split]):
            made = world.make(seed, index, split, size)
            name = f"{split}_{index:06d}.png"
            data = _png(made.image)
            pictures.update(data)
            _write(root / "images" / name, data)
            _add(tables, world.categories, made, split, index, name)
    if "no_target" in world.asked:
        tables.lines += tables.nothing
    categories = [
        {"id": k, "name": name, "supercategory": "region" if name in world.grounds else "thing"}
        for k, name in enumerate(world.categories, 1)
    ]
    instances = {"info": {"description": "svp generated scenes", "seed": seed}, "licenses": [],
                 "images": tables.images, "annotations": tables.annotations,
                 "categories": categories}  # fmt: skip
    as_lists = [item | {"segmentation": [item["segmentation"]]} for item in tables.annotations]
    contents = (_json(instances | {"annotations": as_lists}), _json(instances), pickle.dumps(tables.refs, protocol=2),
                "".join(f"{line}\n" for line in tables.lines).encode(),
                _json({"sentences": tables.classes}))  # fmt: skip
    files = dict(zip(_TABLES, contents, strict=True))
    if _GROUP in world.categories:
        files[_NO_TARGET] = "".join(f"{line}\n" for line in tables.untrue).encode()
    if "captions" in world.asked:
        files[_CAPTIONS] = "".join(f"{line}\n" for line in tables.captions).encode()
    digests = {"images": pictures.hexdigest()}
    for name, data in files.items():
        _write(root / name, data)
        digests[name] = hashlib.sha256(data).hexdigest()
    return digests


def _add(
    tables: _Tables, categories: tuple[str, ...], made: Any, split: str, index: int, name: str
) -> None:
    image_id = SPLITS.index(split) * 1_000_000 + index + 1
    height, width = made.labels.whole.shape
    tables.images.append({"id": image_id, "file_name": name, "height": height, "width": width})
    first = len(made.scene.regions) + 1  # label of thing 0
    labels = {(k,): category for k, category in enumerate(made.names, 1)}
    spoken: dict[tuple[int, ...], list[Any]] = {key: [] for key in labels}
    for phrase in made.phrases:
        key = tuple(first + target for target in phrase.targets)
        if len(key) > 1:
            labels.setdefault(key, _GROUP)
        spoken.setdefault(key, []).append(phrase)
    for k, (key, category) in enumerate(labels.items(), 1):
        mask = np.isin(made.labels.whole, key)
        annotation: dict[str, Any] = {
            "id": image_id * 100 + k, "image_id": image_id, "iscrowd": 0,
            "category_id": categories.index(category) + 1, "area": int(mask.sum()),
            "bbox": _bbox(mask), "segmentation": _rle(mask),
        }  # fmt: skip
        tables.annotations.append(annotation)
        if said := spoken[key]:
            sent_ids = [annotation["id"] * 10 + j for j in range(len(said))]
            tables.refs.append(_ref(annotation, split, name, sent_ids, [p.text for p in said]))
            for sent_id, phrase in zip(sent_ids, said, strict=True):
                tables.classes[str(sent_id)] = list(phrase.classes)
                tables.lines.append(_line(annotation, split, name, sent_id, phrase.text))
    for number, phrase in enumerate(spoken.get((), [])):
        nothing = {"id": image_id * 100, "segmentation": []}
        sent_id = image_id * 1000 + number
        tables.nothing.append(_line(nothing, split, name, sent_id, phrase.text))
        line = {"image": f"images/{name}", "expression": phrase.text, "split": _jsonl_split(split)}
        tables.untrue.append(json.dumps(line))
    for text in getattr(made, "captions", ()):
        told = {"image": f"images/{name}", "expression": text, "mask": [],
                "split": _jsonl_split(split)}  # fmt: skip
        tables.captions.append(json.dumps(told))


def _ref(
    annotation: dict[str, Any], split: str, name: str, sent_ids: list[int], texts: list[str]
) -> dict[str, Any]:
    stem, ext = name.rsplit(".", 1)
    sentences = [
        {"sent_id": sent_id, "sent": text, "raw": text, "tokens": text.split()}
        for sent_id, text in zip(sent_ids, texts, strict=True)
    ]
    # REFER's file names carry the annotation; the image's own name is in instances.json.
    return {"ref_id": annotation["id"], "ann_id": annotation["id"], "split": split,
            "image_id": annotation["image_id"], "category_id": annotation["category_id"],
            "sent_ids": sent_ids, "file_name": f"{stem}_{annotation['id']}.{ext}",
            "sentences": sentences}  # fmt: skip


def _line(annotation: dict[str, Any], split: str, name: str, sent_id: int, text: str) -> str:
    record = {"image": f"images/{name}", "expression": text, "mask": annotation["segmentation"],
              "id": str(sent_id), "object": str(annotation["id"]),
              "split": _jsonl_split(split)}  # fmt: skip
    return json.dumps(record)


def _jsonl_split(split: str) -> str:
    return "test" if split.startswith("test") else split


def _rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _bbox(mask: NDArray[np.bool_]) -> list[int]:
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1)]


def _png(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def object_masks(made: MadeScene) -> Iterator[tuple[int, str, NDArray[np.bool_]]]:
    """All true masks of a scene for measurement: (label, level, (H,W) visible pixels).

    Levels: `region`, `body` (a whole thing, parts included), `part`, `sub-part`.
    """
    regions = len(made.scene.regions)
    for k in range(1, regions + len(made.scene.things) + 1):
        yield k, "region" if k <= regions else "body", made.labels.whole == k
    for level, labels in (("part", made.labels.part), ("sub-part", made.labels.sub)):
        for k in np.unique(labels[labels > 0]).tolist():
            yield k, level, labels == k
