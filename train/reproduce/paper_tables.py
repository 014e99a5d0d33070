"""Tables 1 to 7 and C as experiments, by name; and two of ours: fewer bits, fewer tokens.

Table 1 compares compressive projectors at equal token budget, Table 2 other systems, Table 6 cost;
Tables 3, 4 and 5 and Fig. 5 what SVP is made of, its variants and its sizes; Table 7 embeddings of
several layers and encoders, Table C sources of superpixels.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pydantic import JsonValue

from ...model.projectors import ANSWERS
from ...pipeline.display import counted, show
from ...pipeline.errors import ConfigError
from ...pipeline.fetch.sam_specs import SAMS
from ...pipeline.io.yaml_files import Override
from ..cli_defaults import ALL, TABLE_NAMES
from ..evaluation.paper_numbers import TABLES
from .comparison.budget_table import budget_table
from .experiment import SUPERPIXELS, Claim, Experiment, Overrides, Row, best, projector, rich, svp
from .sizes import Setting, setting

MLP = "MLP, all patches"
ANOTHER = (
    "another system with its own training data: its published numbers are quoted, not made here"
)
COMPRESSIVE = (
    ("Q-Former", "qformer"),
    ("Pixel-Shuffle", "pixel_shuffle"),
    ("C-Abstractor", "c_abstractor"),
    ("D-Abstractor", "d_abstractor"),
    ("DeCo", "deco"),
    ("LDPv2", "ldpv2"),
    ("TokenPacker", "tokenpacker"),
    ("PVTC", "pvtc"),
)


def table1(at: Setting) -> Experiment:
    """Every projector with the same recipe, data and seeds; only `projector:` changes."""
    rows = [
        Row(
            name=name,
            train=projector(kind, _options(at, kind)),
            cache=rich(at.layers) if kind in ("tokenpacker", "pvtc") else (),
            paper=("1", name),
        )
        for name, kind in COMPRESSIVE
    ]
    rows += [Row("SVP", paper=("1", "SVP")), _mlp("3", "GLaMM + DINOv2")]
    names = tuple(name for name, _ in COMPRESSIVE)
    return Experiment(
        "table1",
        TABLES["1"].title,
        tuple(rows),
        best("SVP", names),
        notes=(
            (
                f"Compressive projectors make {counted(at.side * at.side, 'token')}, Q-Former "
                f"{at.queries}; SVP "
                "makes one per superpixel. The last row, on every patch, is not in the paper's table: "
                "its published numbers are Table 3's GLaMM + DINOv2."
            ),
        ),
    )


def table2(at: Setting) -> Experiment:
    """cIoU of published systems; ours is SVP's row."""
    rows = [
        Row(row.name, paper=("2", row.name), not_run="" if row.name == "SVP" else ANOTHER)
        for row in TABLES["2"].rows
    ]
    return Experiment("table2", TABLES["2"].title, tuple(rows), metric="cIoU")


def table6(at: Setting) -> Experiment:
    """Cost of 576 tokens against 40; accuracy is the mean of the eight gIoU."""
    mlp = _mlp("3", "GLaMM + DINOv2")
    rows = (
        Row("GLaMM + DINOv2", train=mlp.train, paper=mlp.paper),
        Row("SVP", paper=("3", "Baseline + DINOv2 + SSPE + SSA")),
    )
    note = (
        "Time and memory come from `svp bench train` and `svp bench infer`, not from these runs, with "
        "as many images per pass for both. The paper trains with the encoders in the loop; from a "
        "cache is ours alone."
    )
    return Experiment("table6", "Efficiency", rows, notes=(note,), bench=True)


def _mlp(table: str, row: str) -> Row:
    return Row(MLP, train=projector("mlp"), paper=(table, row))


def _options(at: Setting, kind: str) -> Mapping[str, JsonValue]:
    """The token budget, and the projector's widths at this size."""
    budget: Mapping[str, JsonValue]
    match kind:
        case "qformer":
            budget = {"tokens": at.queries}
        case "pixel_shuffle" | "tokenpacker" | "pvtc":
            budget = {"r": at.window}
        case _:
            budget = {"out_grid": [at.side, at.side]}
    return {**budget, **at.narrow.get(kind, {})}


def _clip(at: Setting) -> tuple[Overrides, Overrides]:
    """Settings of a row with this size's CLIP: of the precompute and of the training recipe."""
    cache = (Override("features.encoder", at.clip),)
    return cache, (Override("model.vision.encoder", at.clip),)


BARE = svp(sspe_variant="none", ssa_variant="none")  # X = MLP(E0)
NO_SSA = svp(ssa_variant="none")


def table3(at: Setting) -> Experiment:
    """Table 3: from GLaMM to SVP, one part after another."""
    mlp, (cache_of_clip, clip) = projector("mlp"), _clip(at)
    # As GLaMM shows a photograph to CLIP: CLIP's own preprocessing, which crops.
    glamm = (*cache_of_clip, Override("features.view", "clip"))
    parts = (
        ("GLaMM", mlp, glamm),
        ("GLaMM + DINOv2", mlp, ()),
        ("Baseline", (*clip, *BARE), cache_of_clip),
        ("Baseline + DINOv2", BARE, ()),
        ("Baseline + DINOv2 + SSPE", NO_SSA, ()),
        ("Baseline + DINOv2 + SSPE + SSA", (), ()),
    )
    rows = tuple(
        Row(
            name,
            train,
            cache,
            ("3", name),
            (at.no_clip if cache else "") or (at.no_published if name == "GLaMM" else ""),
            name == "GLaMM",
        )
        for name, train, cache in parts
    )
    chain = [name for name, _, _ in parts[2:]]
    steps = tuple(Claim(after, before) for before, after in itertools.pairwise(chain))
    note = "GLaMM is the published GLaMM-RefSeg, evaluated as it is (--published)."
    return Experiment("table3", TABLES["3"].title, rows, steps, notes=(note,))


def table4(at: Setting) -> Experiment:
    """SSPE variants, without SSA as in the paper (rows 1 and 4 are Table 3's rows 4 and 5)."""
    variants = (
        ("w/o SSPE", "none"),
        ("BBox-MLP", "bbox_mlp"),
        ("Mask-MLP", "mask_mlp"),
        ("Mask-Att.", ""),
        ("BBox-MLP + Mask-Att.", "bbox_mlp+mask_att"),
    )
    rows = tuple(
        Row(name, (*(svp(sspe_variant=kind) if kind else ()), *NO_SSA), paper=("4", name))
        for name, kind in variants
    )
    names = tuple(name for name, _ in variants)
    claims = (*best("Mask-Att.", names), *(Claim(n, "w/o SSPE") for n in names[1:3]))
    return Experiment("table4", TABLES["4"].title, rows, claims)


def table5(at: Setting) -> Experiment:
    """SSA variants."""
    variants = (
        ("w/o SSA", "none"),
        ("w/o Sharing", "unshared"),
        ("w/o Sharing + Att. Bias", "unshared_bias"),
        ("w/ Sharing", ""),
    )
    rows = tuple(
        Row(name, svp(ssa_variant=kind) if kind else (), paper=("5", name))
        for name, kind in variants
    )
    names = tuple(name for name, _ in variants)
    claims = (*best("w/ Sharing", names), Claim("w/o SSA", "w/o Sharing"))
    return Experiment("table5", TABLES["5"].title, rows, claims)


def fig5(at: Setting) -> Experiment:
    """Sweeps of the number of queries, SSPE blocks and SSA blocks; the paper shows curves only."""
    swept = (
        ("queries", "num_queries", at.queries_swept, 16),
        ("SSPE blocks", "sspe_blocks", at.blocks_swept, 3),
        ("SSA blocks", "ssa_blocks", at.blocks_swept, 3),
    )
    rows = [
        Row(f"{label}: {value}", svp(**{name: value}) if value != base else ())
        for label, name, values, published in swept
        for base in (at.svp.get(name, published),)
        for value in values
    ]
    notes = ("The paper gives curves without numbers: best at 2 or 3 blocks; it uses 3 and 3.",)
    return Experiment("fig5", "Sizes of SSPE and SSA", tuple(rows), notes=notes)


FINER = "Finer semantic superpixels, 2x2 windows"


def table7(at: Setting) -> Experiment:
    """Fusion X = sum_k alpha_k SVP_k(F_k)."""
    plain = {"sspe_variant": "none", "ssa_variant": "none"}
    shallow = projector("fusion", {"sources": len(at.shallow), "svp": {**at.svp, **plain}})
    deep = projector("fusion", {"sources": len(at.last), "svp": at.svp})
    both = projector("fusion", {"sources": 2, "svp": at.svp})
    cache_of_clip, clip = _clip(at)
    # The last layer of each: DINOv2's own stands among `layers` too, CLIP's beside it.
    cache_of_both = (
        Override("features.second", {"encoder": at.clip, "weights": "auto"}),
        Override("features.layers", [at.last[-1]]),
    )
    second = (Override("model.vision.second", at.clip),)
    rows = (
        Row("CLIP last layer", (*clip, *BARE), cache_of_clip, not_run=at.no_clip),
        Row(
            "CLIP shallow + deep",
            (*clip, *shallow),
            (*cache_of_clip, *rich(at.shallow)),
            not_run=at.no_clip,
        ),
        Row("DINOv2 last layer"),
        Row("DINOv2 last few layers", deep, rich(at.last)),
        Row("CLIP + DINOv2", (*second, *both), cache_of_both, not_run=at.no_clip),
    )
    named = tuple(Row(row.name, row.train, row.cache, ("7", row.name), row.not_run) for row in rows)
    last = "DINOv2 last layer"
    claims = (
        *(Claim(last, row.name) for row in rows if row.name != last),
        Claim("CLIP last layer", "CLIP shallow + deep"),
    )
    notes = (f"Last few layers: {', '.join(map(str, at.last))}, each after the final LayerNorm.",)
    return Experiment("table7", TABLES["7"].title, named, claims, notes=notes)


def table_c(at: Setting) -> Experiment:
    """SAM, MobileSAM and SLIC; and the paper's future work, superpixels of local windows."""
    slic, mobile, sam = (row.name for row in TABLES["C"].rows)
    shipped = bool(SAMS[at.mobile].shipped)
    windows = (
        Override("superpixels.preset", "windows"),
        Override("superpixels.grid", {"crop_n_layers": 1, "points_per_side": at.points}),
    )
    rows = (
        Row(
            slic,
            cache=(
                Override("superpixels.source", "slic"),
                Override("superpixels.slic.n_segments", at.slic),
            ),
            paper=("C", slic),
        ),
        Row(
            mobile,
            train=(Override("model.sam_decoder", "shipped" if shipped else "given"),),
            decoder="" if shipped else at.mobile,
            cache=(
                Override("superpixels.source", "mobile_sam"),
                Override("superpixels.model", at.mobile),
            ),
            paper=("C", mobile),
            not_run=at.no_mobile,
        ),
        Row(sam, paper=("C", sam)),
        Row(FINER, cache=windows, superpixels=4 * SUPERPIXELS),
    )
    claims = (Claim(sam, slic), Claim(sam, mobile), Claim(mobile, slic))
    notes = (
        (
            "SLIC's superpixels go with SAM's embedding for the mask decoder; n_segments "
            f"{at.slic} is calibrated to SAM's mean count on training images."
        ),
        "MobileSAM replaces SAM both for the superpixels and as the decoder of [SEG].",
        (
            f"{FINER}: the paper's future work, without published numbers; about four times the "
            "tokens and five times SAM's encoder."
        ),
    )
    return Experiment("tableC", TABLES["C"].title, rows, claims, notes=notes)


def stored(at: Setting) -> Experiment:
    """SVP on caches in fewer bits; each row trains on its cache and is evaluated on another."""
    features = {kind: Override("features.stored", kind) for kind in ("int8", "mean+int4")}
    sam = Override("sam_stored", "int8")
    rows = (
        Row("float16"),
        Row("int8 features", cache=(features["int8"],)),
        Row("int8 SAM embedding", cache=(sam,)),
        Row("mean+int4 features", cache=(features["mean+int4"],)),
        Row("mean+int4 features, int8 SAM embedding", cache=(features["mean+int4"], sam)),
        # What a thin cache can train: a projector that reads the means alone.
        Row("float16, w/o SSA", NO_SSA),
        Row("thin, w/o SSA", NO_SSA, cache=(Override("features.stored", "mean"), sam)),
    )
    claims = (
        *(Claim(row.name, "float16") for row in rows[1:5]),
        Claim("thin, w/o SSA", "float16, w/o SSA"),
    )
    note = (
        "Not a table of the paper. What counts is the size of the difference to float16, not its "
        "sign: at most half a point of gIoU is wanted."
    )
    return Experiment("stored", "Caches in fewer bits", rows, claims, notes=(note,))


EXPERIMENTS: Mapping[str, Callable[[Setting], Experiment]] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "table5": table5,
    "table6": table6,
    "table7": table7,
    "tableC": table_c,
    "fig5": fig5,
    "stored": stored,
    "budget": budget_table,
}
OURS = ("stored", "budget")
assert tuple(EXPERIMENTS) == TABLE_NAMES


def experiment(key: str, size: str, others: Sequence[str] = ()) -> Experiment:
    """A table at a size, or all of the paper's as one. Raises ConfigError.

    others  projectors that the table of budgets compares, too
    """
    if key == ALL:  # what is one run has one place, whatever tables it is in
        tables = [experiment(key, size) for key in EXPERIMENTS if key not in OURS]
        rows = (replace(row, name=f"{t.key}: {row.name}") for t in tables for row in t.rows)
        return Experiment(ALL, "All tables", tuple(rows))
    if key not in EXPERIMENTS:
        raise ConfigError(f"table {show(key)}: allowed are {', '.join(EXPERIMENTS)}")
    if others and key != "budget":
        raise ConfigError(f"--projector is for the table budget, not for {key}")
    at = setting(size)
    table = budget_table(at, others) if others else EXPERIMENTS[key](at)
    if not at.answers:
        return table
    also = Override(f"model.projector.options.{ANSWERS}", True)
    return replace(table, rows=tuple(replace(row, train=(*row.train, also)) for row in table.rows))
