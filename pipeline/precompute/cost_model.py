"""Cost estimate of a run before its start: images, files, bytes, hours, memory.

Bytes of uncompressed arrays are exact. Time comes from a calibration (a few images computed on this
machine: `calibration`) or, for another machine, from operation counts and throughputs measured or
assumed there. Compressed arrays are measured by the calibration too, else assumed.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from ..cache.layers import ENCODED, FEATURES, POOLED, SAM
from ..cache.plan import Plan
from ..cache.schema import ArraySpec
from ..display import Report, counted, duration, size
from ..fetch.encoder_specs import ENCODERS
from ..fetch.sam_specs import SAMS
from ..recipe import GridConfig, SuperpixelConfig
from .machines import DEVICES, Device

__all__ = ["DEVICES", "Calibration", "Device", "Estimate", "estimate", "makespan", "prompts",
           "seconds_per_image", "tflop", "window_prompts"]  # fmt: skip

MANIFEST_BYTES = 140  # per image, in its manifest, the log and the index
SHARD_INDEX = 16  # bytes per chunk in a shard file's index, plus its crc32c

# Assumed where nothing was measured: superpixels per image (the paper), bytes each in every array.
SUPERPIXELS = 40
RLE_EACH, COVER_EACH, MASK_EACH, SMALL_EACH = 300, 220, 120, 22
ASSUMED = f"{SUPERPIXELS} superpixels per image assumed for the compressed arrays"
HOST_S = 0.10  # decoding, run-length work and writing of one 480x640 photograph, one core
HIERARCHICAL = 0.26  # share of the grid that preset hierarchical prompts, on generated scenes
PROCESS_GB = 0.9  # interpreter, torch and the other libraries


@dataclass(frozen=True, slots=True)
class Calibration:
    """A few images computed on this machine, all workers at once.

    start_s   from starting a worker until its models are loaded
    image_s   seconds per image of one worker while the others work too
    stage_s   the same by stage; stages overlap, so that their sum is more
    bytes     stored bytes per image by compressed array
    peak_rss  most memory of one worker, bytes
    worker    what a worker is, in words
    cut       whether the time for measuring ended before the images did: then the compressed bytes
              are assumed
    """

    images: int
    workers: int
    start_s: float
    image_s: float
    stage_s: Mapping[str, float]
    bytes: Mapping[str, float]
    peak_rss: int
    worker: str = "CPU worker"
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Estimate(Report):
    """The price of a run. `basis` says where the figures come from; bytes are exact or rounded up.

    worker_hours  hours of one device (GPU, or CPU worker); wall_s  for `workers` of them, of which
                  each takes `start_s` before its first image: processes start, models load
    memory        bytes per worker: host memory, and device memory if there is a GPU
    """

    images: int
    shards: int
    files: int
    bytes: Mapping[str, int]
    device: str
    workers: int
    worker_hours: float
    wall_s: float
    memory: Mapping[str, int]
    basis: Sequence[str] = field(default_factory=tuple)
    start_s: float = 0.0

    @property
    def total_bytes(self) -> int:
        """Bytes on disk."""
        return sum(self.bytes.values())

    def to_json(self) -> dict[str, object]:
        return {
            "images": self.images,
            "shards": self.shards,
            "files": self.files,
            "bytes": dict(self.bytes),
            "total_bytes": self.total_bytes,
            "device": self.device,
            "workers": self.workers,
            "worker_hours": round(self.worker_hours, 4),
            "wall_s": round(self.wall_s, 1),
            "start_s": round(self.start_s, 1),
            "memory": dict(self.memory),
            "basis": list(self.basis),
        }

    def lines(self) -> list[str]:
        arrays = "  ".join(f"{name} {size(value)}" for name, value in self.bytes.items())
        memory = ", ".join(f"{size(value)} {name}" for name, value in self.memory.items())
        total = size(self.total_bytes)
        return [
            (
                f"{counted(self.images, 'image')}, {counted(self.shards, 'shard')}, "
                f"{counted(self.files, 'file')}, {total}"
            ),
            f"bytes: {arrays}",
            f"time: {self._time()}",
            f"memory per worker: {memory}",
            *(f"basis: {line}" for line in self.basis),
        ]

    def _time(self) -> str:
        """Wall time and what it consists of; the sum over workers only where there are several."""
        start, busy = duration(self.start_s), duration(self.wall_s - self.start_s)
        parts = f"{start} until the models are loaded, then {busy} of computing"
        if self.workers == 1:
            return f"{duration(self.wall_s)} on one {self.device}: {parts}"
        total = duration(3600 * self.worker_hours)
        side = f"{self.workers} x {self.device} side by side"
        return f"{duration(self.wall_s)} on {side}: {parts} ({total} if one did it all)"


def estimate(
    plan: Plan,
    images: int,
    *,
    calibration: Calibration | None = None,
    device: str | Device = "core",
    workers: int = 1,
    lent: Mapping[str, int] = MappingProxyType({}),
    linked: Collection[str] = (),
) -> Estimate:
    """The price of `images` images under `plan` (its own image list is not looked at).

    device   a key of `DEVICES` or a machine, for figures without a `calibration`
    lent     images that another cache has, by kind of layer: they are not computed
    linked   kinds of layers of which another cache has all: they take no space
    """
    machine = DEVICES[device] if isinstance(device, str) else device
    shards = -(-images // plan.shard_size)
    specs = plan.arrays
    sizes = {
        spec.name: round(_row_bytes(spec, calibration) * images)
        + shards * (SHARD_INDEX * plan.shard_size + 4)
        for spec in specs
    }
    sizes["manifests"] = MANIFEST_BYTES * images + 2000 * (shards + len(specs))
    sizes = {
        spec.name: 0 if spec.layer.split("/")[0] in linked else sizes[spec.name] for spec in specs
    } | {"manifests": sizes["manifests"]}
    if calibration:
        image_s, start_s = calibration.image_s, calibration.start_s
    else:
        parts = part_seconds(plan, machine)
        every = max(images, 1)
        shares = {part: 1 - _lent(plan, part, lent, images) / every for part in parts}
        image_s = _overlapped({part: parts[part] * shares[part] for part in parts}, machine)
        start_s = 30.0
    return Estimate(
        images=images,
        shards=shards,
        # An array's file, a manifest per layer and the log; then the documents of all of them.
        files=shards * (len(specs) + len(plan.layers) + 1) + len(specs) + 8 * len(plan.layers) + 16,
        bytes=sizes,
        device=calibration.worker if calibration else machine.name,
        workers=workers,
        worker_hours=images * image_s / 3600,
        wall_s=makespan(images, plan.shard_size, workers) * image_s + (start_s if images else 0.0),
        start_s=start_s if images else 0.0,
        memory=_memory(plan, calibration, machine.gpu),
        basis=_basis(plan, calibration, machine),
    )


def makespan(images: int, shard_size: int, workers: int) -> int:
    """Images the busiest of `workers` workers computes: shards are whole, the last one is short.

    >>> makespan(200, 64, 2), makespan(64, 64, 8)
    (128, 64)
    """
    full, rest = divmod(images, shard_size)
    rounds, more = divmod(full, workers)
    # Each shard goes to the worker that has done least, so the short one follows the last full round.
    return max((rounds + bool(more)) * shard_size, rounds * shard_size + rest)


def prompts(grid: GridConfig) -> tuple[int, int]:
    """(encoder passes, decoder prompts) of one image under SAM grid prompting."""
    passes = points = 0
    for layer in range(grid.crop_n_layers + 1):
        crops = 4**layer
        passes += crops
        points += (
            crops * int(grid.points_per_side / grid.crop_n_points_downscale_factor**layer) ** 2
        )
    return passes, points


def window_prompts(grid: GridConfig) -> tuple[int, int]:
    """As `prompts` for preset=windows: the whole image for its embedding, then each window.

    >>> window_prompts(GridConfig(crop_n_layers=1, points_per_side=8))
    (5, 256)
    """
    windows: int = 4**grid.crop_n_layers
    return 1 + windows, windows * grid.points_per_side**2


def tflop(plan: Plan) -> dict[str, float]:
    """TFLOP of one image by part."""
    pixels, features = plan.recipe.superpixels, plan.recipe.features
    sam = SAMS[pixels.model]
    seen = [features, *([features.beside] if features.beside else [])]
    parts = {"features": sum(ENCODERS[one.encoder].view_tflop(one.size) for one in seen)}
    if not pixels.prompts_sam:
        if plan.sam is not None:
            parts["sam encoder"] = sam.tflop
    else:
        passes, points = (
            window_prompts(pixels.grid) if pixels.preset == "windows" else prompts(pixels.grid)
        )
        parts["sam encoder"] = passes * sam.tflop
        share = HIERARCHICAL if pixels.preset == "hierarchical" else 1.0
        parts["sam decoder"] = share * points * sam.prompt_gflop / 1e3
    return parts


def _row_bytes(spec: ArraySpec, calibration: Calibration | None) -> float:
    if spec.level is None:
        return spec.row_bytes + 4  # crc32c
    if calibration and spec.name in calibration.bytes:
        return calibration.bytes[spec.name]
    each = {"rle": RLE_EACH, "cover": COVER_EACH, "sspe_masks": MASK_EACH}
    if spec.name == "pooled":  # dense float16, hardly compressed
        each["pooled"] = 2 * spec.row[-1]
    return min(spec.row_bytes, SUPERPIXELS * each.get(spec.name, SMALL_EACH))


def seconds_per_image(plan: Plan, machine: str | Device) -> float:
    """Seconds per image on a machine, or a key of `DEVICES`; each part at its own precision."""
    device = DEVICES[machine] if isinstance(machine, str) else machine
    return _overlapped(part_seconds(plan, device), device)


def _overlapped(parts: Mapping[str, float], device: Device) -> float:
    """Seconds of `part_seconds` together: beside a GPU, the host reads the next batch and finishes
    the last one; a CPU worker has one core for all.
    """
    models = sum(seconds for part, seconds in parts.items() if part != "host")
    return max(models, parts["host"]) if device.gpu else models + parts["host"]


def _lent(plan: Plan, part: str, lent: Mapping[str, int], images: int) -> int:
    """Images whose part of the work is not done because another cache has what it gives."""
    if part in ("host", "features"):  # decoding and writing go with what the encoder makes anew
        kinds = ({layer.kind for layer in plan.layers} & ENCODED) - {POOLED}
        kinds |= {FEATURES} if plan.thin else set()
    else:
        prompted = part == "sam decoder" or plan.recipe.superpixels.prompts_sam
        kinds = {"superpixels" if prompted else SAM}
    return min(images, *(lent.get(kind, 0) for kind in kinds))


def part_seconds(plan: Plan, machine: str | Device) -> dict[str, float]:
    """Seconds per image of each part of the work: host, features, sam encoder, sam decoder; see `seconds_per_image`."""
    device = DEVICES[machine] if isinstance(machine, str) else machine
    parts = tflop(plan)
    pixels, features = plan.recipe.superpixels, plan.recipe.features
    single = device.single if pixels.mode == "fast" else device.exact
    sam = single if pixels.dtype == "float32" else device.half
    vision = device.single if features.dtype == "float32" else device.half
    speeds = {**sam, "features": vision["features"]}
    return {"host": HOST_S} | {name: parts[name] / speeds[name] for name in parts}


def _memory(plan: Plan, calibration: Calibration | None, gpu: bool) -> dict[str, int]:
    rows = plan.shard_size * sum(s.row_bytes for s in plan.arrays if s.level is None)
    if calibration:
        left = max(0, plan.shard_size - calibration.images) / plan.shard_size
        return {"host": round(calibration.peak_rss + rows * left)}
    pixels: SuperpixelConfig = plan.recipe.superpixels
    features = plan.recipe.features
    models = ENCODERS[features.encoder].gigabytes
    models += ENCODERS[features.beside.encoder].gigabytes if features.beside else 0.0
    work, sam = 0.2, SAMS[pixels.model]
    if not pixels.prompts_sam:
        models += sam.gigabytes if plan.sam is not None else 0.0
    else:
        models += sam.gigabytes
        # 3 masks of 1024^2 fp32 per prompt, and about 5 copies of the decoder's 4 MiB keys.
        work += 0.3 if sam.stand_in else pixels.points_per_batch * (0.0126 + 0.021)
        work += 0.0 if sam.stand_in else plan.recipe.batch * 0.35
    if not gpu:
        return {"host": round((PROCESS_GB + models + work) * 1e9 + 2 * rows)}
    return {
        "host": round((PROCESS_GB + 2.0 + models) * 1e9 + 2 * rows),
        "device": round((0.6 + models + work) * 1e9),
    }


def _basis(plan: Plan, calibration: Calibration | None, device: Device) -> list[str]:
    if calibration:
        stages = ", ".join(f"{name} {1e3 * s:.0f} ms" for name, s in calibration.stage_s.items())
        count, workers = calibration.images, calibration.workers
        return [
            (
                f"measured here on {counted(count, 'image')}, {counted(workers, 'worker')} at "
                f"once: {1e3 * calibration.image_s:.0f} ms per image; {stages}"
            ),
            f"models ready after {calibration.start_s:.1f} s",
            *([ASSUMED] if calibration.cut else []),
        ]
    work = ", ".join(f"{name} {value:.3g} TFLOP" for name, value in tflop(plan).items())
    one = device.exact == device.half
    speed = ", ".join(
        f"{name} {device.exact[name]:.3g}" + ("" if one else f" / {device.half[name]:.3g}")
        for name in device.exact
    )
    kinds = "float32" if one else "exact float32 / bfloat16"
    return [
        f"per image: {work}; {HOST_S} s of one core for decoding, runs and writing"
        + (", beside the GPU" if device.gpu else ""),
        f"TFLOP/s of {device.name}, {kinds} ({device.origin}): {speed}",
        ASSUMED,
    ]
