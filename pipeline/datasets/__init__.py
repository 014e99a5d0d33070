"""Data sets of images and expressions: COCO, REFER, hub parquet, JSONL, plain folders.

Whatever the files look like, later code sees a `Source`. `open_dataset` finds out what a path is;
`check`, `convert` and `export_jsonl` are `svp data`'s commands.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from ..display import counted, show
from ..errors import ConfigError, MissingError
from ..store import is_url
from . import leakage
from .convert import ConvertReport, export_jsonl, write_tables
from .coordinates import survey, systematic
from .detect import held_out, load, load_photographs
from .image_roots import Found, image_root
from .options import Given, Options
from .photo_headers import look_at
from .problems import Problems
from .stored_photos import root_name
from .tables import Annotation, Dataset, ImageEntry, Sentence, Source, assemble
from .validate import check
from .validation_report import CheckReport

__all__ = [
    "Annotation",
    "CheckReport",
    "ConvertReport",
    "Dataset",
    "ImageEntry",
    "Options",
    "Sentence",
    "Source",
    "check",
    "convert",
    "export_jsonl",
    "load",
    "open_dataset",
    "photo_notices",
]


def open_dataset(
    where: Path | str,
    *,
    images: Path | None = None,
    split: str | None = None,
    root: Path | None = None,
    split_by: str | None = None,
    allow_google: bool = False,
    allow_counts: bool = False,
    allow_empty: bool = False,
    exclude_eval_images: bool = False,
    max_failures: int | None = 0,
    masks: bool = False,
    photos: bool = True,
    alone: bool = False,
    limit: int | None = None,
) -> Source:
    """The images of one split (None: all), each once, sorted by id, with their expressions.

    `where` is a path (REFER set or a folder of several, COCO root or instances file, parquet file
    or folder, JSONL, plain image folder, converted tables), or names of REFER sets under `root`
    such as `refcoco,refcoco+/unc,refcocog`. `images` is the photographs' folder or
    address; without it the
    usual layouts around the annotations are tried. `exclude_eval_images` drops from `train` every
    image of a val or test split of any RefCOCO set there. Up to `max_failures` bad records (None: up
    to half of a file) are left out, named in the notices and counted in `faults`. `masks` checks all
    masks now instead of on first use, by the same rule. Without `photos` the photographs need not be
    there: a cache holds what training and evaluation need of them. With `alone` the photographs at
    `where` are the data set, rows of parquet files too, whatever else lies there. Of photographs
    without annotations only the first `limit` by id are looked at.

    Raises MissingError (nothing there, no image found), ConfigError (google without
    `allow_google`), DataError (anything wrong in a file; its `problems` has the single lines).
    """
    if exclude_eval_images and split != "train":
        raise ConfigError(f"exclude_eval_images is for --split train, not {show(split)}")
    if images is not None and images.is_file():
        raise MissingError(
            f"{show(str(images), 300)}: is a file: give the folder below which the data set's "
            "photographs have their names"
        )
    options = Options(
        root=root,
        images=images,
        split=split,
        split_by=split_by,
        allow_google=allow_google,
        allow_counts=allow_counts,
        allow_empty=allow_empty,
        max_failures=max_failures,
        limit=limit,
    )
    datasets = load_photographs(Path(where), options) if alone else load(where, options)
    source = assemble(datasets, split)
    found = _find(datasets, images, source, photos)
    images_here = found.rename(source.images)
    root = found.root if is_url(found.root) else found.root.absolute()
    source = replace(source, image_root=root, images=images_here, listed=found.listed)
    source.notices.extend(_placement(source, max_failures))
    source.notices.append(f"images: {show(root_name(found.root), 300)} ({found.layout})")
    if found.renamed:
        source.notices.append(f"images: under COCO's other names, such as {images_here[0].path}")
    source.notices.extend(leakage.describe(leakage.overlaps(datasets)))
    if exclude_eval_images:
        source = leakage.without_images(source, *held_out(datasets, options))
    if masks:
        problems = Problems(source.where)
        for line in source.bad_masks.values():
            problems.add(line)
        source.notices.extend(problems.settle(len(source.annotations), max_failures).notices())
    return source


def _find(datasets: Sequence[Dataset], images: Path | None, source: Source, needed: bool) -> Found:
    if not needed and images is not None and is_url(images):  # no credentials are asked for
        return Found(images, "not looked at")
    try:
        return image_root(datasets, images, [record.path for record in source.images])
    except MissingError:
        if needed:
            raise
        return Found(images or source.image_root, "none of them is here")


def photo_notices(source: Source) -> list[str]:
    """Notices about the headers of the images: all files are opened, none is decoded.

    Empty for sources whose reader has looked at them: their notices have it already.
    """
    if source.kind in ("folder", "jsonl"):
        return []
    return look_at(source.image_root, source.images, source.listed).notices()


def _placement(source: Source, max_failures: int | None) -> list[str]:
    """Notices about the position of polygons on their images, before anything is computed.

    DataError if so many cannot lie there that it is the file, not the object; unless more are
    accepted. The others are refused where their mask is used.
    """
    objects = [item for item in source.annotations.values() if item.readable]
    placement, wrong = survey(
        (item.segmentation, item.height, item.width, item.where) for item in objects
    )
    notices = placement.notices()
    if not wrong:
        return notices
    if systematic(len(wrong), len(objects)) and len(wrong) > (max_failures or 0):
        problems = Problems(source.where)
        for line in wrong:
            problems.add(line)
        problems.refuse(
            f" in {counted(len(objects), 'object')}: coordinates that do not fit the images"
        )
    left = f"{counted(len(wrong), 'object')} of {len(objects)}"
    return [*notices, f"left out: {left} do not fit their image (first: {wrong[0]})"]


def convert(where: Path | str, out: Path, **given: Unpack[Given]) -> ConvertReport:
    """Write the normalised tables of a source, all its splits, to the new folder `out`.

    Keywords as `open_dataset`; `split` only picks the instances file of a COCO root. Raises as
    `open_dataset`, except that the photographs need not be there. Bad records are left out and
    counted, up to `max_failures`.
    """
    options = Options(**given, annotations=True)
    return write_tables(load(where, options), out, options.max_failures)
