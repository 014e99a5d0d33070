"""REFER folders: refs(<splitBy>).p, or gRefCOCO's grefs(<splitBy>).json, and instances.json.

RefCOCO, RefCOCO+, RefCOCOg, RefCLEF, gRefCOCO, Ref-ZOM, FP-RefCOCO/+/g and R-RefCOCO/+/g; what they
have of their own is in `refer_records`. `google` divides objects, not images, so the same image
stands on both sides: it is refused unless asked for. Splits are matched exactly; REFER's own code
matches substrings, which matters for RefCLEF alone: its testA is also in testAB (`CLEF_SPLITS`).
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
from .published_counts import ANY_SPLITS, CLEF_HOLDS, CLEF_SPLITS, SPLITS, compare
from .refer_records import Ref, load_refs
from .refer_targets import no_target, target_of
from .tables import Annotation, Dataset, ImageEntry, Sentence, order_of

DEFAULT_SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
CLEF = "refclef"
_FILE = re.compile(r"g?refs\(([A-Za-z0-9_]{1,32})\)\.(?:p|json)")
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
    """Whether the folder holds a refs(*).p or grefs(*).json file."""
    return folder.is_dir() and bool(split_files(folder))


def split_files(folder: Path) -> dict[str, Path]:
    """The refs files of a folder by splitBy; the pickle of two forms, as gRefCOCO's loader."""
    matches = ((_FILE.fullmatch(child.name), child) for child in sorted(folder.glob("*refs(*).*")))
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
    split_by = split_by_of(path)
    if split_by == "google" and not allow_google:
        raise ConfigError(
            f"{name}/google divides objects, not images: the same image is in train and val, so its "
            f"numbers mean little. Use {DEFAULT_SPLIT_BY.get(name, 'another')} or --allow-google"
        )
    broken: list[str] = []
    refs, notices = load_refs(path, broken.append)
    instances = folder / "instances.json"
    wanted = {ann_id for ref in refs for ann_id in ref.ann_ids}
    images, objects, bad = load_instances(instances, name, wanted, max_failures)
    problems = Problems(show(str(path), 300))
    for line in broken:
        problems.add(line)
    join = _Join(name, split_by, path.name.startswith("grefs"), images, objects, problems)
    sentences = [row for ref in refs for row in join.sentences(ref)]
    faults = merged((bad, problems.settle(len(refs) + len(broken), max_failures)))
    used = {row.image_id for row in sentences}
    made = Dataset(
        kind="refer",
        name=name,
        split_by=split_by,
        root=folder,
        images=tuple(entry for entry in images if entry.image_id in used),
        sentences=tuple(sorted(sentences, key=order_of)),
        annotations=join.targets,
        files={f"{name}/{file.name}": fingerprint(file) for file in (instances, path)},
        faults=faults,
        holds=CLEF_HOLDS if name == CLEF else {},
    )
    return with_counts(made, notices, allow_counts)


def with_counts(dataset: Dataset, notices: list[str], allow_counts: bool) -> Dataset:
    """The dataset with its notices, or a DataError if its counts are wrong and not allowed."""
    errors, more = compare(dataset)
    if errors and not allow_counts:
        hint = "a wrong or truncated file; --allow-counts accepts an intended subset"
        raise DataError(f"{dataset.title}: {'; '.join(errors)} ({hint})")
    return replace(dataset, notices=(*notices, *errors, *more))


def split_by_of(path: Path) -> str:
    """The splitBy of a refs file."""
    match = _FILE.fullmatch(path.name)
    return match[1] if match else ""


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


class _Join:
    """Sentences of the good refs of one set; `targets` are the annotations they are joined to."""

    def __init__(
        self,
        name: str,
        split_by: str,
        lenient: bool,
        images: list[ImageEntry],
        objects: dict[int, Annotation],
        problems: Problems,
    ) -> None:
        self.name, self.split_by, self.lenient = name, split_by, lenient
        known = CLEF_SPLITS if name == CLEF else ANY_SPLITS
        self.splits = SPLITS.get((name, split_by), known)
        self.images = {entry.image_id: entry for entry in images}
        self.objects, self.problems = objects, problems
        self.targets: dict[int, Annotation] = {}
        self._seen: set[tuple[str, int]] = set()

    def sentences(self, ref: Ref) -> Iterator[Sentence]:
        """The rows of one ref; none if it is a bad record, however much is wrong with it."""
        found = [*self._wrong(ref), *self._repeated(ref)]
        target = None
        if not found:
            image = self.images[ref.image_id]
            try:
                target = target_of(ref, image, self.objects, lenient=self.lenient)
            except DataError as error:
                found.append(str(error))
        if target is None:
            self.problems.add(f"ref {ref.ref_id}: {'; '.join(found)}")
            return
        for sent_id, sent, exists in ref.sentences:
            meant = target if exists else no_target(ref, image)
            self.targets[meant.ann_id] = meant
            # The published loaders lower and strip the cleaned sentence once more.
            text = sent.strip().lower()
            ids = (ref.image_id, meant.ann_id, ref.ref_id, sent_id)
            yield Sentence(self.name, self.split_by, ref.split, *ids, text)

    def _wrong(self, ref: Ref) -> Iterator[str]:
        if ref.split not in self.splits:
            yield f"split {quote(ref.split)} is not one of {', '.join(sorted(self.splits))}"
        if ref.image_id not in self.images:
            yield f"image_id {ref.image_id} is not in instances.json"
        for ann_id in ref.ann_ids:
            item = self.objects.get(ann_id)
            if item is None:
                yield f"ann_id {ann_id} is not in instances.json"
            elif item.image_id != ref.image_id:
                yield f"ann_id {ann_id} belongs to image {item.image_id}, not {ref.image_id}"
        if not ref.sentences:
            yield "has no sentence"

    def _repeated(self, ref: Ref) -> Iterator[str]:
        keys = [("ref_id", ref.ref_id), *(("sent_id", one.sent_id) for one in ref.sentences)]
        for key in keys:
            if key in self._seen:
                yield f"{key[0]} {key[1]} is used twice"
            self._seen.add(key)
