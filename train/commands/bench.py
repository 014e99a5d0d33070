"""`svp bench loader`, `train` and `infer`: benchmarks of the online half."""

from pathlib import Path
from typing import Any

import click

from ...pipeline.commands.console import PATH, as_json, report, several

speed_options = several(
    click.option("--preset", type=click.Choice(["cpu", "paper"]), default="cpu", show_default=True),
    click.option("--device", default="cpu", show_default=True),
    click.option("--layers", type=click.IntRange(min=1), help="Of the language model."),
    click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True),
    click.option(
        "--projector", "more", multiple=True, help="Beside mlp and svp; again for several."
    ),
)


@click.command("loader")
@click.option("--images", type=click.IntRange(min=32), default=256, show_default=True)
@click.option("--reps", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--mosaic", is_flag=True, help="Also MosaicML, in an environment made for it.")
@click.option("--folder", type=PATH, help="Where the files go; default the temporary folder.")
@as_json
def bench_loader_command(as_json: bool, folder: Path | None, **options: Any) -> None:
    """Batches at paper shapes against RLE decoding and MosaicML; resume and order."""
    from ..bench.loader import run

    report(run(folder=folder, **options), as_json)


@click.command("train")
@speed_options
@as_json
def bench_train_command(
    preset: str, device: str, layers: int | None, repeats: int, more: tuple[str, ...], as_json: bool
) -> None:
    """A training step, SVP against MLP, from cache and live, part by part."""
    from ..bench.presets import preset as shapes
    from ..bench.speed import bench_train

    report(bench_train(shapes(preset, layers), device, repeats, more), as_json)


@click.command("infer")
@speed_options
@as_json
def bench_infer_command(
    preset: str, device: str, layers: int | None, repeats: int, more: tuple[str, ...], as_json: bool
) -> None:
    """One image and expression, SVP against MLP, forward and generated, part by part."""
    from ..bench.presets import preset as shapes
    from ..bench.speed import bench_infer

    report(bench_infer(shapes(preset, layers), device, repeats, more), as_json)


@click.command("quickstart")
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True)
@as_json
def bench_quickstart_command(seeds: int, as_json: bool) -> None:
    """The quickstart with SVP and with MLP on all patches, seeds 0, 1, ...: gIoU and goals."""
    from ..runs.quickstart import compare

    report(compare(range(seeds), lambda line: click.echo(line, err=True)), as_json)


BENCHES = (
    bench_loader_command,
    bench_train_command,
    bench_infer_command,
    bench_quickstart_command,
)
