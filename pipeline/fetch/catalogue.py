"""Catalogue of official weights and annotation files: URL, size, digest, licence.

Nothing here touches the network. Sizes marked exact are refused when the server offers another
one; the others are estimates and only bound the download. A digest that no publisher states but
that independent projects report for the same file is kept: it detects damage and swaps. Weights
stand in the tables of models (`encoder_specs`, `sam_specs`), data sets here.

Sources: facebookresearch/segment-anything README (the file names carry the first digits of the
md5), ChaoningZhang/MobileSAM, facebookresearch/dinov2 README, the hub's openai/clip pages,
cocodataset.org (its bucket, by the address that has a valid certificate), archived REFER files.
"""

from dataclasses import dataclass

from .. import plugins
from ..display import show
from ..errors import ConfigError
from .encoder_specs import ENCODERS, EncoderSpec
from .published import Remote, RemoteFile
from .sam_specs import SAMS, SamSpec

PREFIX = "hub:"  # hub:OWNER/NAME is a model folder in the local cache of the Hugging Face hub
COCO = "https://s3.amazonaws.com/images.cocodataset.org"
REFER = "https://bvisionweb1.cs.unc.edu/licheng/referit/data"  # the host is gone; archived below


def find_remote(name: str) -> Remote:
    """The entry called `name`, or a ConfigError that lists the names."""

    if known := {key.lower(): row for key, row in CHECKPOINTS.items()}.get(name.lower()):
        raise ConfigError(f"svp fetch does not bring {show(name)}: {known.how}")
    plugins.find_all(plugins.SAMS)
    plugins.find_all(plugins.ENCODERS)
    rows: list[SamSpec | EncoderSpec] = [*SAMS.values(), *ENCODERS.values()]
    offered = {row.remote.name: row.remote for row in rows if row.remote} | REMOTES
    row = ENCODERS.get(name)
    if row is not None and row.hub and name not in offered:
        access = f". {row.access}" if row.access else ""
        raise ConfigError(f"svp fetch does not bring {name}: `hf download {row.hub}`{access}")
    if name not in offered:
        raise ConfigError(f"nothing to fetch called {show(name)}; known: {', '.join(offered)}")
    return offered[name]


def _coco(name: str, about: str, path: str, size: int, digest: str) -> Remote:
    file = RemoteFile(f"{COCO}/{path}", path.rpartition("/")[2], size, digest, unpack=True)
    licence = "Flickr terms of use" if path.startswith("zips") else "CC-BY-4.0 (unchecked)"
    return Remote(name, about, licence, (file,))


def _refer(name: str, stamp: str, size: int, sha256: str) -> Remote:
    url = f"https://web.archive.org/web/{stamp}id_/{REFER}/{name}.zip"
    file = RemoteFile(url, f"{name}.zip", size, sha256, unpack=True)
    about = f"{name}: expressions and instances (REFER)"
    return Remote(name, about, "none stated; the rules of the original data apply", (file,))


_ALL = (
    *(row.remote for row in SAMS.values() if row.remote),
    *(row.remote for row in ENCODERS.values() if row.remote),
    _coco(
        "coco2014-annotations",
        "COCO 2014 train and val annotations",
        "annotations/annotations_trainval2014.zip",
        252_872_794,
        "md5:0a379cfc70b0e71301e0f377548639bd",
    ),
    _coco(
        "coco2017-annotations",
        "COCO 2017 train and val annotations",
        "annotations/annotations_trainval2017.zip",
        252_907_541,
        "md5:f4bbac642086de4f52a3fdda2de5fa2c",
    ),
    _coco(
        "coco2014-images",
        "COCO train2014 photographs: all that RefCOCO, + and g use",
        "zips/train2014.zip",
        13_510_573_713,
        "md5:0da8c0bd3d6becc4dcb32757491aca88",
    ),
    _refer(
        "refcoco",
        "20220413011718",
        53_993_993,
        "sha256:7f924bb7ed8dc4568058e4ff626281918d56e5206f4c868c5a80f088f38c8bf0",
    ),
    _refer(
        "refcoco+",
        "20220413011656",
        45_613_210,
        "sha256:5f1238112d63199e68da54a28f201471909b21ded7ed79a57d51b4c1443c6b45",
    ),
    _refer(
        "refcocog",
        "20220413012904",
        56_712_951,
        "sha256:3d1f7e5b2ff2205940bf59de55f861f5f2cc1403fb980669933a7f9af1aa8211",
    ),
)

REMOTES: dict[str, Remote] = {remote.name: remote for remote in _ALL}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder on the hub, which `hf download` brings: svp reads it and never fetches it.

    flag   the option that takes it
    size   bytes of its weights
    """

    repository: str
    about: str
    flag: str
    size: int

    @property
    def how(self) -> str:
        """The two things to do, in words."""
        return (
            f"get it with `hf download {self.repository}` ({self.size / 1e9:.1f} GB), then give "
            f"{self.flag} {PREFIX}{self.repository}, or its folder"
        )


CHECKPOINTS: dict[str, Checkpoint] = {
    found.repository.rpartition("/")[2]: found
    for found in (
        Checkpoint("MBZUAI/GLaMM-GranD-Pretrained", "where the paper's training starts", "--init",
                   16_760_000_000),
        Checkpoint("MBZUAI/GLaMM-RefSeg", "GLaMM tuned on RefCOCO", "--published", 16_760_000_000),
        Checkpoint("MBZUAI/GLaMM-FullScope", "GLaMM for all its tasks", "--published",
                   16_760_000_000),
        Checkpoint("xinlai/LISA-7B-v1", "LISA", "--published", 16_120_000_000),
        Checkpoint("xinlai/LISA-13B-llama2-v1", "LISA, 13B", "--published", 28_900_000_000),
        Checkpoint("lmsys/vicuna-7b-v1.5", "a language model alone", "--lm", 13_500_000_000),
    )
}  # fmt: skip
