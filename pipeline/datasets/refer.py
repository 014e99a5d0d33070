"""REFER folders (RefCOCO, RefCOCO+, RefCOCOg): refs(<splitBy>).p and instances.json.

`google` divides objects, not images, so the same image stands on both sides: it is refused unless
asked for. Splits are matched exactly; REFER's own code matches substrings.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..display import quote, show
from ..errors import ConfigError, DataError, MissingError
from ..io.json_files import fingerprint
from .coco import load_instances
from .problems import Problems, merged
from .published_counts import ANY_SPLITS, SPLITS, compare
from .refer_pickle import Ref, load_refs
from .tables import Annotation, Dataset, ImageEntry, Sentence, order_of

DEFAULT_SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
_FILE = re.compile(r"refs\(([A-Za-z0-9_]{1,32})\)\.p")
_PARENTS = (".", "Refer_Segm", "refer_seg")  # beside the set itself: GLaMM's and LISA's folders


def find_sets(root: Path) -> dict[str, Path]:
    """REFER sets in `root` or in its Refer_Segm or refer_seg: name -> folder, sorted."""
    found: dict[str, Path] = {}
    for parent in _PARENTS:
        folder = root / parent
        for child in sorted(folder.iterdir()) if folder.is_dir() else []:
            if is_set(child):
                found.setdefault(child.name, child)
    return dict(sorted(found.items()))


def is_set(folder: Path) -> bool:
    """Whether the folder holds a refs(*).p file."""
    return folder.is_dir() and bool(split_files(folder))


def split_files(folder: Path) -> dict[str, Path]:
    """The refs files of a folder by splitBy."""
    matches = ((_FILE.fullmatch(child.name), child) for child in sorted(folder.glob("refs(*).p")))
    return {match[1]: child for match, child in matches if match}


def read_refer(
    folder: Path,
    split_by: str | None = None,
    *,
    allow_google: bool = False,
    allow_counts: bool = False,
    max_failures: int | None = 0,
) -> Dataset:
    """One REFER set with all its splits; up to `max_failures` bad records are left out (`settle`).

    DataError: anything wrong in the two files, refs that do not fit the annotations, counts that
    differ from the published ones (unless `allow_counts`). ConfigError: google without
    `allow_google`. MissingError: a file is not there.
    """
    name = folder.name
    path = _choose_file(folder, split_by)
    split_by = path.name[5:-3]
    if split_by == "google" and not allow_google:
        raise ConfigError(
            f"{name}/google divides objects, not images: the same image is in train and val, so its "
            f"numbers mean little. Use {DEFAULT_SPLIT_BY.get(name, 'another')} or --allow-google"
        )
    broken: list[str] = []
    refs, notices = load_refs(path, broken.append)
    instances = folder / "instances.json"
    wanted = {ref.ann_id for ref in refs}
    images, annotations, bad = load_instances(instances, name, wanted, max_failures)
    problems = Problems(show(str(path), 300))
    for line in broken:
        problems.add(line)
    sentences = _join(refs, name, split_by, images, annotations, problems)
    faults = merged((bad, problems.settle(len(refs) + len(broken), max_failures)))
    used = {row.image_id for row in sentences}
    made = Dataset(
        kind="refer",
        name=name,
        split_by=split_by,
        root=folder,
        images=tuple(entry for entry in images if entry.image_id in used),
        sentences=tuple(sorted(sentences, key=order_of)),
        annotations=annotations,
        files={f"{name}/{file.name}": fingerprint(file) for file in (instances, path)},
        faults=faults,
    )
    return with_counts(made, notices, allow_counts)


def with_counts(dataset: Dataset, notices: list[str], allow_counts: bool) -> Dataset:
    """The dataset with its notices, or a DataError if its counts are wrong and not allowed."""
    errors, more = compare(dataset)
    if errors and not allow_counts:
        hint = "a wrong or truncated file; --allow-counts accepts an intended subset"
        raise DataError(f"{dataset.title}: {'; '.join(errors)} ({hint})")
    return replace(dataset, notices=(*notices, *errors, *more))


def _choose_file(folder: Path, split_by: str | None) -> Path:
    if not folder.is_dir():
        raise MissingError(f"no REFER folder {show(str(folder), 300)}")
    files = split_files(folder)
    wanted = split_by or DEFAULT_SPLIT_BY.get(folder.name)
    if wanted in files:
        return files[wanted]
    if split_by is None and len(files) == 1:
        return next(iter(files.values()))
    have = ", ".join(files) or "none"
    raise MissingError(
        f"{show(str(folder), 300)}: no refs({show(wanted or 'splitBy')}).p; splits found: {have}"
    )


def _join(
    refs: list[Ref],
    name: str,
    split_by: str,
    images: list[ImageEntry],
    annotations: dict[int, Annotation],
    problems: Problems,
) -> list[Sentence]:
    allowed = SPLITS.get((name, split_by), ANY_SPLITS)
    known = {entry.image_id for entry in images}
    seen: set[tuple[str, int]] = set()
    rows: list[Sentence] = []
    for ref in refs:
        found = [*_ref_problems(ref, allowed, known, annotations), *_repeated(ref, seen)]
        if found:  # one record, however much is wrong with it
            problems.add(f"ref {ref.ref_id}: {'; '.join(found)}")
        else:
            rows += _rows(ref, name, split_by)
    return rows


def _rows(ref: Ref, name: str, split_by: str) -> Iterator[Sentence]:
    for sent_id, sent in ref.sentences:
        # The published loaders lower and strip the cleaned sentence once more.
        text = sent.strip().lower()
        ids = (ref.image_id, ref.ann_id, ref.ref_id, sent_id)
        yield Sentence(name, split_by, ref.split, *ids, text)


def _ref_problems(
    ref: Ref, allowed: frozenset[str], images: set[int], annotations: dict[int, Annotation]
) -> Iterator[str]:
    if ref.split not in allowed:
        yield f"split {quote(ref.split)} is not one of {', '.join(sorted(allowed))}"
    if ref.image_id not in images:
        yield f"image_id {ref.image_id} is not in instances.json"
    annotation = annotations.get(ref.ann_id)
    if annotation is None:
        yield f"ann_id {ref.ann_id} is not in instances.json"
    elif annotation.image_id != ref.image_id:
        yield f"ann_id {ref.ann_id} belongs to image {annotation.image_id}, not {ref.image_id}"
    if not ref.sentences:
        yield "has no sentence"


def _repeated(ref: Ref, seen: set[tuple[str, int]]) -> Iterator[str]:
    keys = [("ref_id", ref.ref_id), *(("sent_id", sent_id) for sent_id, _ in ref.sentences)]
    for key in keys:
        if key in seen:
            yield f"{key[0]} {key[1]} is used twice"
        seen.add(key)
