"""The paper's tables 1 to 7 and C, and the reference rows printed beside our results.

All accuracies are percent, one per column of `COLUMNS`. A published number is only comparable on
the published split, so `beside` answers nothing for a set of another size: generated scenes use
RefCOCO's file layout too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ...pipeline.datasets.published_counts import COUNTS

Metric = Literal["gIoU", "cIoU"]
SPLIT_BY = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
COLUMNS: tuple[tuple[str, str], ...] = (
    ("refcoco", "val"),
    ("refcoco", "testA"),
    ("refcoco", "testB"),
    ("refcoco+", "val"),
    ("refcoco+", "testA"),
    ("refcoco+", "testB"),
    ("refcocog", "val"),
    ("refcocog", "test"),
)


# Section 5.2: "Other training and inference settings are consistent with GLaMM", whose evaluation
# draws up to three sentences of an image and asks them in one dialogue.
PROTOCOL = "glamm"
PROTOCOL_WORDS = "up to 3 random sentences of an image in one dialogue"


def asked_alike(protocol: str) -> str:
    """Note on the protocol of the paper's numbers, beside ours."""
    told = f"the paper's numbers: protocol {PROTOCOL} ({PROTOCOL_WORDS})"
    same = (
        "ours: the same" if protocol == PROTOCOL else f"ours: protocol {protocol} (every sentence)"
    )
    return f"{told}; {same}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table; `values` in the order of `COLUMNS`, None where the paper has none."""

    name: str
    tokens: int | None
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One accuracy table."""

    title: str
    metric: Metric
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """The line called `name`. Raises KeyError."""
        return {row.name: row for row in self.rows}[name]


@dataclass(frozen=True, slots=True)
class Cost:
    """One line of table 6. The unit of the training time is lost: quote ratios only."""

    name: str
    tokens: int
    train_time: float
    train_gb: float
    inference_ms: int
    inference_gb: float


def _table(title: str, metric: Metric, text: str) -> Table:
    """Lines of `name | tokens or - | eight numbers or -`."""
    rows = []
    for line in text.strip().splitlines():
        name, tokens, values = (part.strip() for part in line.split("|"))
        numbers = tuple(None if v == "-" else float(v) for v in values.split())
        rows.append(Row(name, None if tokens == "-" else int(tokens), numbers))
    return Table(title, metric, tuple(rows))


TABLES: Mapping[str, Table] = {
    "1": _table(
        "Compressive projectors at a similar average number of tokens",
        "gIoU",
        """
        Q-Former       | - | 71.1 72.8 67.6  55.1 59.9 50.2  60.2 61.6
        Pixel-Shuffle  | - | 78.0 79.8 75.8  68.8 72.2 65.2  72.4 73.2
        C-Abstractor   | - | 76.3 78.3 72.5  63.2 68.6 57.8  66.4 67.2
        D-Abstractor   | - | 77.3 79.3 73.9  66.3 71.4 61.1  69.4 69.7
        DeCo           | - | 76.5 78.5 73.5  65.2 69.5 60.8  70.4 70.5
        LDPv2          | - | 78.9 80.9 75.7  69.8 73.4 64.3  72.9 73.7
        TokenPacker    | - | 78.7 80.9 76.0  70.0 73.8 64.0  71.3 71.9
        PVTC           | - | 76.7 79.2 73.5  65.3 70.8 59.3  69.2 69.7
        SVP            | 40 | 81.5 83.1 79.1  75.0 79.1 70.0  76.0 76.3
        """,
    ),
    "2": _table(
        "State of the art",
        "cIoU",
        """
        CRIS              | -   | 70.5 73.2 66.1  65.3 68.1 53.7  59.9 60.4
        LAVT              | -   | 72.7 75.8 68.8  62.1 68.4 55.1  61.2 62.1
        GRES              | -   | 73.8 76.5 70.2  66.0 71.0 57.7  65.0 66.0
        X-Decoder         | -   | - - -  - - -  64.6 -
        SEEM              | -   | - - -  - - -  65.7 -
        PixelLM           | 576 | 73.0 76.5 68.2  66.3 71.7 58.3  69.3 70.5
        PerceptionGPT-13B | 576 | 75.3 79.1 72.1  68.9 74.0 61.9  70.7 71.9
        LISA-7B           | 576 | 74.9 79.1 72.3  65.1 70.8 58.1  67.9 70.6
        GLaMM             | 576 | 79.5 83.2 76.9  72.6 78.7 64.6  74.2 74.9
        F-LMM             | 576 | 76.1 - -  66.4 - -  70.1 -
        OMG-LLaVA         | 256 | 78.0 80.3 74.1  69.1 73.1 63.0  72.9 72.9
        M2SA              | 256 | 74.6 77.6 71.0  64.0 68.1 57.6  69.0 69.3
        SVP               | 40  | 80.2 82.9 77.0  71.6 76.6 65.9  73.7 74.6
        """,
    ),
    "3": _table(
        "Components",
        "gIoU",
        """
        GLaMM                          | 576 | 80.8 82.8 77.8  74.3 78.9 68.3  75.3 76.0
        GLaMM + DINOv2                 | 576 | 81.7 83.1 78.2  74.9 79.4 70.1  76.5 76.9
        Baseline                       | 40  | 71.6 75.2 69.0  56.4 61.1 51.2  61.7 62.9
        Baseline + DINOv2              | 40  | 77.0 78.7 72.7  65.4 71.7 59.2  69.4 69.7
        Baseline + DINOv2 + SSPE       | 40  | 80.1 81.7 76.9  72.3 75.5 67.1  73.8 74.6
        Baseline + DINOv2 + SSPE + SSA | 40  | 81.5 83.1 79.1  75.0 79.1 70.0  76.0 76.3
        """,
    ),
    "4": _table(
        "SSPE variants",
        "gIoU",
        """
        w/o SSPE             | 40 | 77.0 78.7 72.7  65.4 71.7 59.2  69.4 69.7
        BBox-MLP             | 40 | 78.4 80.4 75.3  69.1 74.0 63.5  70.9 72.6
        Mask-MLP             | 40 | 77.7 79.3 74.4  67.6 72.8 61.2  70.7 71.0
        Mask-Att.            | 40 | 80.1 81.7 76.9  72.3 75.5 67.1  73.8 74.6
        BBox-MLP + Mask-Att. | 40 | 78.1 80.6 74.9  68.6 74.1 64.0  70.9 72.0
        """,
    ),
    "5": _table(
        "SSA variants",
        "gIoU",
        """
        w/o SSA                 | 40 | 80.1 81.7 76.9  72.3 75.5 67.1  73.8 74.6
        w/o Sharing             | 40 | 78.7 80.9 75.7  69.2 74.4 62.9  71.2 71.6
        w/o Sharing + Att. Bias | 40 | 80.8 82.1 77.2  73.4 77.2 67.0  74.7 75.5
        w/ Sharing              | 40 | 81.5 83.1 79.1  75.0 79.1 70.0  76.0 76.3
        """,
    ),
    "7": _table(
        "Embedding fusion",
        "gIoU",
        """
        CLIP last layer        | 40 | 71.6 75.2 69.0  56.4 61.1 51.2  61.7 62.9
        CLIP shallow + deep    | 40 | 69.9 72.0 68.2  52.5 57.4 48.5  59.4 60.2
        DINOv2 last layer      | 40 | 81.5 83.1 79.1  75.0 79.1 70.0  76.0 76.3
        DINOv2 last few layers | 40 | 81.0 82.7 78.9  74.5 78.3 69.8  75.6 76.2
        CLIP + DINOv2          | 40 | 79.2 80.7 76.4  70.1 74.3 63.4  71.7 72.1
        """,
    ),
    "C": _table(
        "Superpixel sources",
        "gIoU",
        """
        SLIC superpixel                  | 40 | 75.9 78.3 73.7  65.8 69.7 60.8  70.0 70.2
        Semantic superpixel w/ MobileSAM | 40 | 80.0 81.8 77.5  73.3 77.1 68.3  74.1 74.6
        Semantic superpixel w/ SAM       | 40 | 81.5 83.1 79.1  75.0 79.1 70.0  76.0 76.3
        """,
    ),
}

TABLE_6: tuple[Cost, ...] = (
    Cost("GLaMM + DINOv2", 576, 46.0, 21.4, 384, 19.9),
    Cost("SVP", 40, 12.4, 21.1, 152, 15.0),
)

# GLaMM-RefSeg as its author ran it (groundingLMM issue 42): how far one model's numbers wander.
_AUTHOR = _table(
    "GLaMM-RefSeg, runs by its author",
    "gIoU",
    """
    GLaMM-RefSeg, author's run 1 | 576 | 80.52 83.40 77.60  - - -  - -
    GLaMM-RefSeg, author's run 2 | 576 | 80.66 - -  - - -  - -
    """,
)
_AUTHOR_CIOU = _table(
    _AUTHOR.title,
    "cIoU",
    """
    GLaMM-RefSeg, author's run 1 | 576 | 79.29 83.17 76.64  - - -  - -
    GLaMM-RefSeg, author's run 2 | 576 | 79.78 - -  - - -  - -
    """,
)


@dataclass(frozen=True, slots=True)
class Published:
    """One number to print beside ours, in percent; `source` says where it stands, `protocol` how it
    was asked for, as a name of `protocols.Protocol`.
    """

    name: str
    tokens: int | None
    metric: Metric
    value: float
    source: str
    protocol: str = PROTOCOL


def is_published_split(dataset: str, split_by: str, split: str, images: int) -> bool:
    """Whether these are the images the paper evaluates on, by name and by number."""
    if (dataset, split) not in COLUMNS or SPLIT_BY[dataset] != split_by:
        return False
    return COUNTS[dataset, split_by][split].images == images


def beside(dataset: str, split_by: str, split: str, images: int) -> list[Published]:
    """Published numbers of SVP and GLaMM on this split; none if it is not the paper's split."""
    if not is_published_split(dataset, split_by, split, images):
        return []
    column = COLUMNS.index((dataset, split))
    return [
        Published(name, row.tokens, table.metric, value, source)
        for name, table, row, source in _comparable()
        if (value := row.values[column]) is not None
    ]


def _comparable() -> Sequence[tuple[str, Table, Row, str]]:
    two, three = TABLES["2"], TABLES["3"]
    rows = [
        ("SVP", three, three.rows[-1], "paper, table 3"),
        ("GLaMM + DINOv2", three, three.row("GLaMM + DINOv2"), "paper, table 3"),
        ("GLaMM", three, three.row("GLaMM"), "paper, table 3"),
        ("SVP", two, two.row("SVP"), "paper, table 2"),
        ("GLaMM", two, two.row("GLaMM"), "paper, table 2"),
    ]
    author = "groundingLMM issue 42"
    rows += [
        (row.name, table, row, author) for table in (_AUTHOR, _AUTHOR_CIOU) for row in table.rows
    ]
    return rows
