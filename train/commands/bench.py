"""`svp bench loader`, `launches`, `train`, `infer`: benchmarks of the online half."""

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from ...pipeline.commands.console import as_json, report, several
from ...pipeline.commands.path_types import NEW_FOLDER, PATH, PLACE
from .shared import take_tier, tier

if TYPE_CHECKING:
    from pathlib import Path

    from ...pipeline.store import Place

speed_options = several(
    click.option("--preset", type=click.Choice(["cpu", "paper"]), default="cpu", show_default=True,
                 help="Model and batch sizes."),
    click.option("--device", default="cpu", show_default=True, help="Device: cpu, cuda or cuda:N."),
    click.option("--layers", type=click.IntRange(min=1), help="Layers of the language model."),
    click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True,
                 help="Timed repetitions."),
    click.option("--projector", "more", multiple=True,
                 help="Projector to measure besides mlp and svp; repeatable."),
)  # fmt: skip

environments_option = click.option(
    "--environments", type=NEW_FOLDER,
    help="Folder for the environments of other loaders. Default: the user's cache.",
)  # fmt: skip


@click.command("loader")
@click.option("--images", type=click.IntRange(min=32), default=256, show_default=True,
              help="Images in the cache.")  # fmt: skip
@click.option("--reps", type=click.IntRange(min=1), default=3, show_default=True,
              help="Repetitions; the best one counts.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True,
              help="Reader threads.")  # fmt: skip
@click.option(
    "--rivals",
    metavar="NAMES",
    help="Also measure these loaders, each in its own environment: "
    "litdata,mosaicml,webdataset,lance,ray or all.",
)
@click.option("--mosaic", is_flag=True, help="The same as --rivals mosaicml.")
@environments_option
@click.option(
    "--folder", type=NEW_FOLDER, help="Folder for the files. Default: the temporary folder."
)
@as_json
def bench_loader_command(as_json: bool, rivals: str | None, mosaic: bool, **options: Any) -> None:
    """Compare the data loader with RLE decoding and other loaders, at the paper's shapes."""
    from ..bench.loader import run
    from ..bench.other_loaders import parse_rivals

    names = parse_rivals(",".join([rivals or "", "mosaicml" if mosaic else ""]))
    report(run(rivals=names, **options), as_json)


@click.command("checkpoint")
@click.option("--parameters", type=click.IntRange(min=1000), default=24_000_000, show_default=True,
              help="Trained parameters; a checkpoint has 12 bytes of each.")  # fmt: skip
@click.option("--reps", type=click.IntRange(min=1), default=5, show_default=True,
              help="Repetitions; the median counts.")  # fmt: skip
@click.option(
    "--folder", type=NEW_FOLDER, help="Folder for the files. Default: the temporary folder."
)
@as_json
def bench_checkpoint_command(as_json: bool, **options: Any) -> None:
    """Time that training stands still for a checkpoint, waiting for it and not."""
    from ..bench.checkpoint import run

    report(run(**options), as_json)


@click.command("order")
@as_json
def bench_order_command(as_json: bool) -> None:
    """Measure orders of samples: shards a batch draws from, noise, cost for a huge set."""
    from ..bench.order import run

    report(run(), as_json)


@click.command("remote")
@click.argument("place", type=PLACE)
@click.option("--make", type=click.IntRange(min=0), default=0, metavar="IMAGES",
              help="Make a synthetic cache of so many images there first.")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True,
              help="Images per batch.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True,
              help="Threads that read batches; worker processes of other loaders.")  # fmt: skip
@tier
@click.option("--reps", type=click.IntRange(min=1), default=1, show_default=True,
              help="Repetitions, each by a new reader; the median counts.")  # fmt: skip
@click.option("--rivals", metavar="NAMES",
              help="Also measure these loaders on the features: litdata,mosaicml or all.")  # fmt: skip
@environments_option
@click.option("--folder", type=NEW_FOLDER,
              help="Folder for what other loaders read. Default: the temporary folder.")  # fmt: skip
@as_json
def bench_remote_command(place: "Place", as_json: bool, rivals: str | None, **options: Any) -> None:
    """Read a cache on an object store as training does: rate, requests and CPU time per image."""
    from ..bench.remote_loaders import parse_remote
    from ..bench.stored_cache import run

    names = parse_remote(rivals or "")
    report(run(place, tier=take_tier(options), rivals=names, **options), as_json)


@click.command("launches")
@as_json
def bench_launches_command(as_json: bool) -> None:
    """Count operators, bytes and host syncs at the paper's shapes, against their budgets."""
    from ..bench.launches import run

    report(run(), as_json)


@click.command("train")
@speed_options
@as_json
def bench_train_command(
    preset: str, device: str, layers: int | None, repeats: int, more: tuple[str, ...], as_json: bool
) -> None:
    """Time a training step of SVP and MLP, from the cache and live, by component."""
    from ..bench.presets import preset as shapes
    from ..bench.speed import bench_train

    report(bench_train(shapes(preset, layers), device, repeats, more), as_json)


@click.command("infer")
@speed_options
@as_json
def bench_infer_command(
    preset: str, device: str, layers: int | None, repeats: int, more: tuple[str, ...], as_json: bool
) -> None:
    """Time the answer to one expression with SVP and MLP, by component."""
    from ..bench.presets import preset as shapes
    from ..bench.speed import bench_infer

    report(bench_infer(shapes(preset, layers), device, repeats, more), as_json)


@click.command("gpu")
@click.option("--preset", type=click.Choice(["cpu", "paper"]), default="paper", show_default=True,
              help="Model and batch sizes.")  # fmt: skip
@click.option("--device", default="cuda", show_default=True, help="Device: cpu, cuda or cuda:N.")
@click.option("--layers", type=click.IntRange(min=1), help="Layers of the language model.")
@click.option("--seconds", type=click.FloatRange(min=1), default=400, show_default=True,
              help="Time for all parts.")  # fmt: skip
@click.option("--out", type=NEW_FOLDER, help="Folder for <device>.json, written after every row.")
@as_json
def bench_gpu_command(
    preset: str, device: str, layers: int | None, seconds: float, out: "Path | None", as_json: bool
) -> None:
    """Measure one GPU, the most important first: each row beside its prediction and goal."""
    from ..bench.gpu import run
    from ..bench.presets import preset as shapes

    tell = partial(click.echo, err=as_json)
    report(run(shapes(preset, layers), device, seconds, out, tell), as_json)


@click.command("quickstart")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True,
              help="Number of seeds: 0, 1, ...")  # fmt: skip
@as_json
def bench_quickstart_command(seeds: int, as_json: bool) -> None:
    """Compare SVP with MLP in the quickstart over several seeds: gIoU and targets."""
    from ..runs.quickstart import compare

    report(compare(range(seeds)), as_json)


@click.command("words")
@click.option("--checkpoint", type=PATH, metavar="RUN",
              help="Run of workflows/train/smollm2.yaml, or a checkpoint. Default: the shipped one.")  # fmt: skip
@click.option("--scenes", type=click.IntRange(min=1), default=300, show_default=True,
              help="Held-out scenes.")  # fmt: skip
@as_json
def bench_words_command(checkpoint: "Path | None", scenes: int, as_json: bool) -> None:
    """Ask SmolLM2 and the tiny model about scenes, in words that no scene trained."""
    from ..bench.other_words import run

    report(run(checkpoint, scenes), as_json)


BENCHES = (
    bench_loader_command,
    bench_checkpoint_command,
    bench_order_command,
    bench_remote_command,
    bench_launches_command,
    bench_train_command,
    bench_infer_command,
    bench_gpu_command,
    bench_quickstart_command,
    bench_words_command,
)
