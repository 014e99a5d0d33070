"""The data set of a reader whose format holds one set, split in one way."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..display import show
from ..errors import DataError
from ..io.json_files import Fingerprint
from .problems import Faults
from .tables import Annotation, Dataset, ImageEntry, Sentence, order_of


def one_set(
    name: str,
    root: Path,
    images: Iterable[ImageEntry],
    sentences: Sequence[Sentence],
    annotations: Mapping[int, Annotation],
    files: Mapping[str, Fingerprint],
    faults: Faults,
) -> list[Dataset]:
    """The data set `name` of a reader, its rows in table order.

    Only photographs with a sentence are in it. Raises DataError naming the files if there is none.
    """
    if not sentences:
        names = ", ".join(files)
        raise DataError(f"{show(str(root), 300)}: {show(names, 200)}: no record that can be used")
    used = {row.image_id for row in sentences}
    return [
        Dataset(
            kind=name,
            name=name,
            split_by="",
            root=root,
            images=tuple(sorted(image for image in images if image.image_id in used)),
            sentences=tuple(sorted(sentences, key=order_of)),
            annotations=annotations,
            files=files,
            faults=faults,
        )
    ]
