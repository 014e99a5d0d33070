"""Detect the format of a path, or a name such as `refcoco+/unc`, and load it."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import plugins
from ..display import show
from ..errors import ConfigError, DataError, MissingError, SvpError
from ..store import FolderStore, is_url
from .coco import choose_file, instance_files, read_coco
from .convert import is_tables, read_tables
from .gseval import read_gseval
from .image_folder import read_folder
from .jsonl import read_jsonl, read_parts
from .jsonl_lines import as_parts
from .leakage import eval_images
from .listing import list_archive, list_images
from .options import Options
from .parquet import parquet_files, read_hub
from .photo_files import ARCHIVE
from .phrasecut import read_phrasecut
from .reasonseg import read_reasonseg
from .ref_adv import read_ref_adv
from .ref_l4 import read_ref_l4
from .refcocom import read_refcocom
from .refer import DEFAULT_SPLIT_BY, find_sets, is_set, read_refer, split_by_of
from .stored_photos import store_of
from .tables import Dataset

_SPEC = re.compile(r"([A-Za-z0-9_+.-]{1,64})(?:/([A-Za-z0-9_]{1,32}))?")
# What each format is known by. A plug-in's is asked itself.
LOOKED_FOR = {
    "tables": "tables.json (svp data convert)",
    "refer": "refs(*.p) or grefs(*.json) with instances.json (REFER, gRefCOCO)",
    "refer sets": "folders that hold those",
    "phrasecut": "image_data_split3000.json (PhraseCut)",
    "refcocom": "annotations/*.json with masks/ (RefCOCOm)",
    "gseval": "GroundingSuite-Eval.jsonl (GSEval)",
    "reasonseg": "train, val, test of *.json beside *.jpg (ReasonSeg)",
    "ref-l4": "*.parquet with boxes (Ref-L4)",
    "ref-adv": "*.parquet with boxes (Ref-Adv)",
    "coco": "annotations/instances_*.json (COCO)",
    "parquet": "*.parquet (hub)",
    "jsonl": "one *.jsonl, or one per split (train.jsonl, val.jsonl, test.jsonl)",
    "images": "images, also in .tar files",
}
PACKAGES = dict.fromkeys(("ref-l4", "ref-adv", "parquet"), ("pyarrow",))


Reader = Callable[[Path, Options], list[Dataset] | None]
"""Reads a path as data sets, or returns None for what is not its format. Raises DataError."""


def load(where: Path | str, options: Options) -> list[Dataset]:
    """The datasets at a path, or those a name such as `refcoco,refcoco+/unc` means in the root.

    At an address of object storage these are the photographs below it.

    MissingError says what was looked for; readers raise DataError for what is wrong in a file.
    """
    path = Path(where)
    if is_url(path):
        store = store_of(path)
        if not isinstance(store, FolderStore):  # file:///data/coco
            return [read_folder(path, limit=options.limit)]
        path = store.root
    if os.path.exists(path) and (found := _plugged(path, options)) is not None:
        return found
    if os.path.isdir(path):  # os.path: what no disk can hold is not there, not an OSError
        return _load_folder(path, options)
    if os.path.isfile(path):
        return _load_file(path, options)
    return _load_named(str(where), options)


def load_photographs(path: Path, options: Options) -> list[Dataset]:
    """The photographs alone of a folder, an address, or a tar or parquet file, whose rows they are.

    Raises MissingError if there is none, MissingPackageError for parquet without pyarrow.
    """
    if os.path.isfile(path):
        return [read_folder(path.parent, list_archive(path), limit=options.limit)]
    found = None if is_url(path) else list_images(path, rows=True)
    return [read_folder(path, found, limit=options.limit)]


def held_out(datasets: Sequence[Dataset], options: Options) -> tuple[frozenset[int], list[str]]:
    """Image ids of all evaluation splits, and notices about sets that were not there to ask.

    Beside the datasets themselves these are the RefCOCO sets in the same folder, as the rule is
    about any of the three, whichever is trained on.
    """
    if datasets[0].kind != "refer":
        return eval_images(datasets), []
    known = {dataset.name for dataset in datasets}
    near = {name: path for d in datasets for name, path in find_sets(d.root.parent).items()}
    more = [
        _read_refer(path, None, options)
        for name, path in near.items()
        if name in DEFAULT_SPLIT_BY and name not in known
    ]
    absent = sorted(set(DEFAULT_SPLIT_BY) - known - set(near))
    notice = f"exclude_eval_images: no {', '.join(absent)} here, so their images are not excluded"
    return eval_images([*datasets, *more]), [notice] if absent else []


def _load_folder(path: Path, options: Options) -> list[Dataset]:
    for name in FOLDERS:
        if (found := FORMATS[name](path, options)) is not None:
            return found
    passed = "".join(f"; {line}" for line in list_images(path).notices())
    raise MissingError(
        f"{show(str(path), 300)} is no dataset: looked for {', '.join(LOOKED_FOR.values())}{passed} "
        f"({plugins.HOW} {plugins.DATASETS})"
    )


def _plugged(path: Path, options: Options) -> list[Dataset] | None:
    """`path` by the first reader of a plug-in that knows it: they go before our own formats."""
    plugins.find_all(plugins.DATASETS)
    for name, reader in FORMATS.items():
        if name in FOLDERS:
            continue
        try:
            found = reader(path, options)
        except (SvpError, MemoryError):
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise DataError(f"{show(str(path), 300)}: format {name}: {show(why, 300)}") from error
        if found is not None:
            return _checked(found, name)
    return None


def _checked(found: object, name: str) -> list[Dataset]:
    if isinstance(found, list) and found and all(isinstance(one, Dataset) for one in found):
        return found
    raise ConfigError(
        f"format {name}: its plug-in gives {show(found)}, want a list of "
        f"{Dataset.__module__}.{Dataset.__qualname__}, or None for what it does not read"
    )


def _load_file(path: Path, options: Options) -> list[Dataset]:
    if split_by := split_by_of(path):
        return [_read_refer(path.parent, split_by, options)]
    readers: dict[str, Callable[[], list[Dataset]]] = {
        ".jsonl": lambda: read_jsonl(
            path,
            options.images,
            allow_empty=options.allow_empty,
            raw=options.annotations,
            max_failures=options.max_failures,
        ),
        ".json": lambda: [_read_coco(path, options)],
        ".parquet": lambda: [_read_hub(path, options)],
        ARCHIVE: lambda: [read_folder(path.parent, list_archive(path), limit=options.limit)],
    }
    if path.suffix not in readers:
        raise DataError(
            f"{show(str(path), 300)}: unknown kind of file: give a .jsonl, a COCO instances .json, "
            "a .parquet, a refs(*).p, a .tar of images or a folder"
        )
    return readers[path.suffix]()


def _load_named(spec: str, options: Options) -> list[Dataset]:
    root = options.root or Path(".")
    sets = find_sets(root)
    found: list[Dataset] = []
    for part in spec.split(","):
        match = _SPEC.fullmatch(part.strip())
        folder = sets.get(match[1]) if match else None
        if match is None or folder is None:
            have = ", ".join(sets) or "none"
            raise MissingError(
                f"{show(part)} is neither a path nor a REFER set in "
                f"{show(str(root), 300)} (sets there: {have})"
            )
        found.append(_read_refer(folder, match[2] or options.split_by, options))
    return found


def _tables(path: Path, options: Options) -> list[Dataset] | None:
    return read_tables(path) if is_tables(path) else None


def _refer(path: Path, options: Options) -> list[Dataset] | None:
    return [_read_refer(path, options.split_by, options)] if is_set(path) else None


def _refer_root(path: Path, options: Options) -> list[Dataset] | None:
    sets = find_sets(path)
    return [_read_refer(s, options.split_by, options) for s in sets.values()] or None


def _coco(path: Path, options: Options) -> list[Dataset] | None:
    if not instance_files(path):
        return None
    return [_read_coco(choose_file(path, options.split), options)]


def _hub(path: Path, options: Options) -> list[Dataset] | None:
    if parquet_files(path):
        return [_read_hub(path, options)]
    subfolders = [child for child in sorted(path.iterdir()) if child.is_dir()]
    found = [child for child in subfolders if parquet_files(child)]
    return [_read_hub(child, options) for child in found] or None


def _jsonl(path: Path, options: Options) -> list[Dataset] | None:
    files = sorted(path.glob("*.jsonl"))
    if len(files) < 2:
        return _load_file(files[0], options) if files else None
    parts = as_parts(files)
    if parts is None:
        names = ", ".join(show(file.name, 40) for file in files[:5])
        raise DataError(
            f"{show(str(path), 300)}: several JSONL files ({names}): name one; files called "
            "train.jsonl, val.jsonl and test.jsonl are the splits of one data set"
        )
    return read_parts(
        parts,
        path,
        options.images,
        allow_empty=options.allow_empty,
        raw=options.annotations,
        max_failures=options.max_failures,
    )


def _images(path: Path, options: Options) -> list[Dataset] | None:
    found = list_images(path)
    return [read_folder(path, found, limit=options.limit)] if found.names else None


def _read_refer(folder: Path, split_by: str | None, options: Options) -> Dataset:
    return read_refer(
        folder,
        split_by,
        allow_google=options.allow_google,
        allow_counts=options.allow_counts,
        max_failures=options.max_failures,
    )


def _read_coco(path: Path, options: Options) -> Dataset:
    return read_coco(path, annotations=options.annotations, max_failures=options.max_failures)


def _read_hub(path: Path, options: Options) -> Dataset:
    return read_hub(path, allow_counts=options.allow_counts, max_failures=options.max_failures)


# Formats by name, in the order in which a folder is tried.
FORMATS: dict[str, Reader] = {
    "tables": _tables,
    "phrasecut": read_phrasecut,
    "refcocom": read_refcocom,
    "gseval": read_gseval,
    "reasonseg": read_reasonseg,
    "ref-l4": read_ref_l4,
    "ref-adv": read_ref_adv,
    "refer": _refer,
    "refer sets": _refer_root,
    "coco": _coco,
    "parquet": _hub,
    "jsonl": _jsonl,
    "images": _images,
}
FOLDERS = tuple(FORMATS)  # those of this package
plugins.attach(plugins.DATASETS, FORMATS, Callable, instances=True)
