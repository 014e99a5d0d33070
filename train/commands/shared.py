"""Options that `svp train`, `eval`, `predict`, `export` and `quickstart` share, and how they end."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ...pipeline.commands.console import report, several
from ...pipeline.commands.path_types import NEW_FOLDER, NEW_PLACE, PATH, PLACE
from ..cli_defaults import shipped_model

if TYPE_CHECKING:
    from ...pipeline.cache.row_tier import RowTier
    from ...pipeline.store import Place


T = TypeVar("T")
NEWEST = "(newest)"  # what --from-cache is without a path
DATA = ("dataset", "images", "root", "split_by", "allow_google", "allow_counts", "allow_empty",
        "max_failures")  # fmt: skip
WEIGHTS = ("lm", "init", "sam_decoder")
FLAGS = ("seed", "projector", "optimizer", "order", "micro_batch", "steps", "budget", *WEIGHTS)

caches = click.option(
    "--from-cache", "caches", type=PLACE, multiple=True, is_flag=False, flag_value=NEWEST,
    help="Cache to read, a folder or s3://bucket/cache; repeatable. Without: the newest in caches/.",
)  # fmt: skip
tier = several(
    click.option(
        "--tier",
        type=click.Path(),
        metavar="FOLDER",
        help="Folder on a local disk that keeps what was read of caches in object storage.",
    ),
    click.option(
        "--tier-size",
        metavar="SIZE",
        help="Most bytes of --tier, such as 500GB or 2TB.",
    ),
)
dataset = click.option("--dataset", help="Path or REFER names. Default: the data of the cache.")
device = click.option(
    "--device", default="auto", show_default=True, help="Device: auto, cpu, cuda or cuda:N."
)
allow_tiny = click.option(
    "--size", type=click.Choice(["tiny", "small", "paper"]), envvar="SVP_SIZE", show_envvar=True,
    help="With tiny: allow the tiny models on other than generated data. Default: as run or cache were "
    "made.",
)  # fmt: skip
runs = click.option("--runs", type=PLACE, default=Path("runs"), show_default=True,
                    help="Folder of the runs, or an address such as s3://bucket/runs.")  # fmt: skip
new_runs = click.option("--runs", type=NEW_PLACE, default=Path("runs"), show_default=True,
                        help="Folder of the runs, or an address such as s3://bucket/runs.")  # fmt: skip
runs_folder = click.option("--runs", type=NEW_FOLDER, default=Path("runs"), show_default=True,
                           help="Folder of the runs.")  # fmt: skip
checkpoint = click.option(
    "--checkpoint",
    "--model",
    "checkpoint",
    type=PLACE,
    callback=lambda _, __, value: shipped_model(value),
    help="Run or checkpoint, by folder or address, export, or tiny. Default: the newest run.",
)
published = several(
    click.option(
        "--published",
        metavar="FOLDER|hub:OWNER/NAME",
        help="Published GLaMM or LISA model, used as it is.",
    ),
    click.option(
        "--own-sam", is_flag=True, help="With --published: use its SAM image encoder, too."
    ),
)
weights = several(
    click.option("--lm", help="Language model: folder, hub:OWNER/NAME, shipped or random:SEED."),
    click.option(
        "--init", help="GLaMM or LISA checkpoint to start from: folder, hub:OWNER/NAME or none."
    ),
    click.option("--sam-decoder", help="SAM weights that initialise the mask decoder."),
)
lm_weights = click.option(
    "--lm-weights", type=click.Choice(["int8"]),
    help="Weights of the language model's layers. Default: as they are.",
)  # fmt: skip
budget = click.option(
    "--budget",
    metavar="auto|N|mean:N|ask:N",
    help="Superpixels per image or, with ask, per question. Default: as the model was trained.",
)
decoder = click.option(
    "--decoder/--no-decoder", default=True, show_default=True,
    help="SAM's mask decoder, or unions of the superpixels that token answers choose.",
)  # fmt: skip
reject_above = click.option(
    "--reject-above", type=click.FloatRange(0, 1), metavar="CHANCE",
    help="Chance above which nothing is meant: of [REJ] (default 0.5), or by token answers.",
)  # fmt: skip
made_size = click.option(
    "--size", type=click.Choice(["tiny", "small", "paper"]), envvar="SVP_SIZE", show_envvar=True,
    help="Shipped recipe. Default: as run or cache were made, else tiny, for generated scenes only.",
)  # fmt: skip
asked_model = several(
    click.option(
        "--cache",
        "--from-cache",
        "cache",
        type=PLACE,
        help="Cache whose recipe is used for the images.",
    ),
    made_size,
    checkpoint,
    published,
    runs,
    weights,
    click.option("--sam-weights", type=PATH, help="SAM checkpoint."),
    click.option("--encoder-weights", type=PATH, help="Encoder weights."),
    budget,
    decoder,
    lm_weights,
    reject_above,
    device,
)
encoders = several(
    click.option(
        "--live",
        is_flag=True,
        help="Compute features on the fly instead of reading them from the cache.",
    ),
    click.option("--sam-weights", type=PATH, help="SAM checkpoint for --live."),
    click.option("--encoder-weights", type=PATH, help="Encoder weights for --live."),
)


def run_and_report(command: Callable[[T], Any], request: T, as_json: bool) -> None:
    """Report on a command that may be one of several processes'; its process group ends with it."""
    from ..distributed import process_group

    with process_group():
        result = command(request)
    report(result, as_json)


def alone() -> bool:
    """Whether this process is the only one: several agree on what they find, and fail together."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def require_caches(paths: "tuple[Place, ...]", split: str) -> None:
    """Raise MissingError at once, before PyTorch is imported, where a folder that is named is no cache."""
    from ...pipeline.cache.layout import holds_cache
    from ..runs.newest_cache import no_cache

    for path in paths if alone() else ():
        if isinstance(path, Path) and not holds_cache(path):
            raise no_cache(path, split)


def take(options: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: options.pop(name) for name in names}


def take_tier(options: dict[str, Any]) -> "RowTier | None":
    """The tier of `--tier` and `--tier-size`. Raises ConfigError for a folder that is none."""
    from ...pipeline.cache.row_tier import RowTier

    folder, limit = options.pop("tier"), options.pop("tier_size")
    if folder is None and limit is None:
        return None
    if folder is None or limit is None:
        raise click.UsageError(
            "--tier and --tier-size belong together: a folder on a local disk, and how much of the "
            "disk it may take, such as --tier /nvme/svp --tier-size 500GB"
        )
    return RowTier(folder, limit)


def named_caches(paths: "tuple[Place, ...]") -> "tuple[Place, ...]":
    """`--from-cache` without a path names none."""
    return tuple(path for path in paths if path != Path(NEWEST))
