"""Tables 3, 4 and 5 and Fig. 5: what SVP is made of, its variants and its sizes."""

import itertools

from ..evaluation.paper import TABLES
from .setting import Setting
from .tables import Claim, Experiment, Row, best, projector, svp

CLIP_CACHE = ("features.encoder=clip-large-336",)
# As GLaMM shows a photograph to CLIP: CLIP's own preprocessing, which crops.
GLAMM_CACHE = ("features.encoder=clip-large-336", "features.view=clip")
CLIP_TRAIN = ("model.vision.encoder=clip-large-336",)
BARE = svp(sspe_variant="none", ssa_variant="none")  # X = MLP(E0)
NO_SSA = svp(ssa_variant="none")


def table3(at: Setting) -> Experiment:
    """From GLaMM to SVP, one part after another."""
    mlp = projector("mlp")
    parts = (
        ("GLaMM", mlp, GLAMM_CACHE),
        ("GLaMM + DINOv2", mlp, ()),
        ("Baseline", (*CLIP_TRAIN, *BARE), CLIP_CACHE),
        ("Baseline + DINOv2", BARE, ()),
        ("Baseline + DINOv2 + SSPE", NO_SSA, ()),
        ("Baseline + DINOv2 + SSPE + SSA", (), ()),
    )
    rows = tuple(
        Row(name, train, cache, ("3", name), at.no_clip if cache else "", name == "GLaMM")
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
