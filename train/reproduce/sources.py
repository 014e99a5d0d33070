"""Table 7, embeddings of several layers and encoders; Table C, where superpixels come from."""

from ..evaluation.paper import TABLES
from .setting import Setting
from .tables import SUPERPIXELS, Claim, Experiment, Row, projector, rich
from .variants import BARE, CLIP_CACHE, CLIP_TRAIN

# The last layer of each: DINOv2's own stands among `layers` too, CLIP's beside it.
BOTH_CACHE = ("features.second={encoder: clip-large-336, weights: auto}", "features.layers=[24]")
BOTH_TRAIN = ("model.vision.second=clip-large-336",)
FINER = "Finer semantic superpixels, 2x2 windows"


def table7(at: Setting) -> Experiment:
    """Fusion X = sum_k alpha_k SVP_k(F_k)."""
    plain = {"sspe_variant": "none", "ssa_variant": "none"}
    shallow = projector("fusion", {"sources": len(at.shallow), "svp": {**at.svp, **plain}})
    deep = projector("fusion", {"sources": len(at.last), "svp": at.svp})
    both = projector("fusion", {"sources": 2, "svp": at.svp})
    rows = (
        Row("CLIP last layer", (*CLIP_TRAIN, *BARE), CLIP_CACHE, not_run=at.no_clip),
        Row(
            "CLIP shallow + deep",
            (*CLIP_TRAIN, *shallow),
            (*CLIP_CACHE, *rich(at.shallow)),
            not_run=at.no_clip,
        ),
        Row("DINOv2 last layer"),
        Row("DINOv2 last few layers", deep, rich(at.last)),
        Row("CLIP + DINOv2", (*BOTH_TRAIN, *both), BOTH_CACHE, not_run=at.no_clip),
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
    windows = (
        "superpixels.preset=windows",
        "superpixels.grid={crop_n_layers: 1, points_per_side: " + f"{at.points}" + "}",
    )
    rows = (
        Row(
            slic,
            cache=("superpixels.source=slic", f"superpixels.slic.n_segments={at.slic}"),
            paper=("C", slic),
        ),
        Row(
            mobile,
            train=("model.sam_decoder=given",),
            decoder="vit_t",
            cache=("superpixels.source=mobile_sam", "superpixels.model=vit_t"),
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
