"""`svp bench`: the measurements of the offline half."""

from pathlib import Path
from typing import Any

import click

from ..fetch.encoder_specs import ENCODERS
from ..fetch.sam_specs import SAMS
from .console import as_json, report
from .path_types import NEW_FOLDER


@click.group()
def bench() -> None:
    """Run the benchmarks quoted in the documentation."""


@bench.command("tiny")
@click.option("--scenes", type=click.IntRange(min=1), default=200, show_default=True,
              help="Number of generated scenes.")  # fmt: skip
@click.option("--points-per-side", type=click.IntRange(1, 64), default=32, show_default=True,
              help="Prompt points per side of the grid.")  # fmt: skip
@as_json
def bench_tiny_command(scenes: int, points_per_side: int, as_json: bool) -> None:
    """Measure the quality of the shipped tiny SAM and encoder on held-out scenes."""
    from ..bench.tiny import measure

    report(measure(scenes, points_per_side=points_per_side), as_json)


@bench.command("world2")
@click.option("--scenes", type=click.IntRange(min=60), default=600, show_default=True,
              help="Scenes that the linear probes are fitted to.")  # fmt: skip
@click.option("--pictures", type=click.IntRange(min=1), default=40, show_default=True,
              help="Held-out scenes that the SAM cuts.")  # fmt: skip
@click.option("--sam", type=click.Choice(["tiny-world2", "tiny-mobile-world2"]),
              default="tiny-world2", show_default=True, help="SAM to measure.")  # fmt: skip
@click.option("--encoder", type=click.Choice(["tiny-world2", "tiny-clip-world2"]),
              default="tiny-world2", show_default=True, help="Encoder to measure.")  # fmt: skip
@as_json
def bench_world2_command(scenes: int, pictures: int, sam: str, encoder: str, as_json: bool) -> None:
    """Prove by linear probes what the scenes of world 2 ask; measure its SAM and encoder."""
    from ..bench.world2 import measure

    report(measure(scenes, pictures, sam=sam, encoder=encoder), as_json)


@bench.command("superpixels")
@click.option("--prompts", type=click.IntRange(min=1), default=1024, show_default=True,
              help="Number of prompt points.")  # fmt: skip
@click.option("--size", type=(int, int), default=(480, 640), show_default=True,
              help="Height and width of the image.")  # fmt: skip
@click.option("--scenes", type=click.IntRange(min=0), default=20, show_default=True,
              help="Scenes on which exact and fast mode are compared, or that --profile works on.")  # fmt: skip
@click.option("--profile", is_flag=True,
              help="Only show what exact precompute spends its time on, and how fast it could become.")  # fmt: skip
@as_json
def bench_superpixels_command(
    prompts: int, size: tuple[int, int], scenes: int, profile: bool, as_json: bool
) -> None:
    """Compare the superpixel selection with the published code: time and results."""
    if profile:
        from ..bench.exact_floor import profile as measure

        report(measure(max(scenes, 1)), as_json)
        return
    from ..bench.superpixels import run

    report(run(prompts=prompts, size=size, scenes=scenes), as_json)


@bench.command("store")
@click.option("--images", type=click.IntRange(min=64), default=384, show_default=True,
              help="Images in the cache.")  # fmt: skip
@click.option("--reps", type=click.IntRange(min=1), default=5, show_default=True,
              help="Repetitions; the best one counts.")  # fmt: skip
@click.option(
    "--mosaic", is_flag=True, help="Also measure MosaicML Streaming, in its own environment."
)
@click.option(
    "--folder", type=NEW_FOLDER, help="Folder for the files. Default: the temporary folder."
)
@as_json
def bench_store_command(
    images: int, reps: int, mosaic: bool, folder: Path | None, as_json: bool
) -> None:
    """Compare the cache's reader and writer with memmap, zarr-python and MosaicML."""
    from ..bench.cache_speed import run

    report(run(images=images, reps=reps, mosaic=mosaic, folder=folder), as_json)


@bench.command("memory")
@click.option("--scenes", type=(int, int), default=(200, 2000), show_default=True,
              help="Numbers of scenes of the two runs.")  # fmt: skip
@as_json
def bench_memory_command(scenes: tuple[int, int], as_json: bool) -> None:
    """Check that peak memory does not grow with the number of images."""
    from ..bench.memory import run

    report(run(scenes), as_json)


@bench.command("cost")
@click.option("--scenes", type=click.IntRange(min=8), default=200, show_default=True,
              help="Number of generated scenes.")  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(min=1), help="Number of workers. Default: one per core."
)
@as_json
def bench_cost_command(scenes: int, workers: int | None, as_json: bool) -> None:
    """Check that the dry run predicts a run's time within 25 %."""
    from ..bench.cost import run

    report(run(scenes, workers=workers), as_json)


@bench.command("rates")
@click.option("--device", default="cpu", show_default=True, help="Device: cpu, cuda or cuda:N.")
@click.option("--sam", type=click.Choice(list(SAMS)), default="tiny",
              show_default=True, help="SAM model.")  # fmt: skip
@click.option("--encoder", type=click.Choice(list(ENCODERS)), default="tiny", show_default=True,
              help="Vision encoder.")  # fmt: skip
@click.option("--images", type=click.IntRange(min=1), default=8, show_default=True,
              help="Images for the feature encoder.")  # fmt: skip
@click.option("--prompts", type=click.IntRange(min=1), default=256, show_default=True,
              help="Prompt points for SAM's decoder.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True,
              help="Timed repetitions.")  # fmt: skip
@as_json
def bench_rates_command(as_json: bool, device: str, **options: Any) -> None:
    """Measure the throughput of SAM and the encoder in each mode, as used by --price."""
    from ..bench.rates import run

    report(run(device, **options), as_json)


@bench.command("scale")
@click.option("--size", type=click.Choice(["tiny", "small", "paper"]), default="paper",
              show_default=True, help="Shipped recipe.")  # fmt: skip
@click.option("--device", type=click.Choice(["a100", "h100", "h200"]), default="a100",
              show_default=True, help="GPU to price.")  # fmt: skip
@click.option("--probe", type=click.IntRange(min=1000), default=100_000, show_default=True,
              help="Images in the largest cache opened for the measurement.")  # fmt: skip
@click.option("--exact", is_flag=True, help="Price exact float32 instead of fast bfloat16.")
@click.option("--whole", type=click.IntRange(min=0), default=0, metavar="N",
              help="Also open one cache of N images and print its memory; SA-1B has 11185362.")  # fmt: skip
@as_json
def bench_scale_command(
    size: str, device: str, probe: int, exact: bool, whole: int, as_json: bool
) -> None:
    """Estimate the cost of SA-1B and of a billion images."""
    from ..bench.scale import run
    from ..precompute.options import Flags, resolve
    from ..precompute.purpose import stores

    # The weights' values change no cost: random ones stand in for missing files.
    flags = Flags(sam_weights="random", encoder_weights="random")
    fast = ("superpixels.mode=fast", "superpixels.dtype=bfloat16")
    # Caches that can be trained on: with SAM's embeddings.
    recipe, _ = resolve(size, None, flags, () if exact else fast, Path(), stores("train", "svp"))
    report(run(recipe, device, probe, whole), as_json)
