"""SAM grid prompting: an image in, its semantic superpixels out.

Order of work (FMA-WSSS on SAM): encode all crops of all images in batches; decode a grid of
points per crop in chunks; select by predicted IoU *before* up-scaling; stability and boxes of what is
left; crop edge, whole-first box NMS per crop; runs of the masks that remain; NMS across crops; hole
and island removal with its NMS; level filter; cap.

Invariants: given equal low-resolution logits, `exact` mode gives the bytes of the published code
for every chunk and batch size. The result is never empty: see `records.Superpixels.fallback`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..records import Superpixels

if TYPE_CHECKING:
    from ..sam import SamBackend

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..errors import DataError
from ..process import overlapped
from ..recipe import GRID_PRESETS, GridConfig
from . import selection
from .candidates import Boxed, Candidates, Prompted, concat_boxed
from .crops import Crop, crop_boxes, crop_points, every_second, to_resized
from .stable import MaskReader
from .upsample import UpsampleShape

if TYPE_CHECKING:
    from ..sam import SamBackend

Image = NDArray[np.uint8]


class GridPrompter:
    """Grid prompting and selection over one SAM backend.

    backend           see `sam.SamBackend`
    preset            "svp" (whole image only) or "fma" (with one layer of crops)
    config            overrides the preset
    mode              "exact": two-step up-sampling; "fast": fused up-sampling. What the backend
                      changes in fast mode (dtype, compile) is its own matter
    points_per_batch  prompts per decoder call; bounds memory, changes rounding in the decoder only
    hierarchical      every second point of every second row first, the others only where no stable
                      whole mask of high predicted IoU lies over them (the idea is TinySAM's, arXiv
                      2312.13789): a subset of the grid's prompts
    max_superpixels   the smallest above that many are dropped and counted in `survivors`
    encoder_batch     crops per encoder call
    """

    def __init__(
        self,
        backend: "SamBackend",
        preset: str = "svp",
        config: GridConfig | None = None,
        mode: Literal["exact", "fast"] = "exact",
        points_per_batch: int = 256,
        max_superpixels: int = 256,
        encoder_batch: int = 8,
        *,
        hierarchical: bool = False,
    ) -> None:
        if config is None and preset not in GRID_PRESETS:
            raise ConfigError(f"preset={preset!r}: use one of {', '.join(GRID_PRESETS)}")
        if mode not in ("exact", "fast"):
            raise ConfigError(f"mode={mode!r}: use exact or fast")
        if min(points_per_batch, max_superpixels, encoder_batch) < 1:
            raise ConfigError("points_per_batch, max_superpixels and encoder_batch need >= 1")
        self.backend = backend
        self.config = GRID_PRESETS[preset] if config is None else config
        self.fused = mode == "fast"
        self.points_per_batch = points_per_batch
        self.max_superpixels = max_superpixels
        self.encoder_batch = encoder_batch
        self.hierarchical = hierarchical

    def generate(self, image: Image) -> Superpixels:
        """Superpixels of one (H,W,3) uint8 RGB image. Raises DataError for any other array."""
        return self.generate_batch([image])[0][0]

    def generate_batch(
        self, images: Sequence[Image], return_embeddings: bool = False
    ) -> tuple[list[Superpixels], list[NDArray[np.float16]] | None]:
        """Superpixels of each image and, on request, its whole-image SAM embedding.

        Embeddings are (C,h,w) float16, the encoder output that the prompts were decoded from.
        """
        for image in images:
            _check(image)
        with torch.inference_mode(), full_precision():
            return self._run(images, return_embeddings)

    def _run(
        self, images: Sequence[Image], wanted: bool
    ) -> tuple[list[Superpixels], list[NDArray[np.float16]] | None]:
        embeddings: list[NDArray[np.float16]] = []

        def candidates() -> Iterator[tuple[list[Candidates], Counter[str]]]:
            parts: list[Candidates] = []
            survivors: Counter[str] = Counter()
            for image, crop, last, features in self._encoded(images):
                if crop.layer == 0 and wanted:
                    embedding = features[: self.backend.channels]
                    embeddings.append(embedding.to(torch.float16).cpu().numpy())
                parts.append(self._crop(features, crop, _size(image), survivors))
                if last:
                    yield parts, survivors
                    parts, survivors = [], Counter()

        with closing(overlapped(self._finish, candidates())) as found:
            return [*found], embeddings if wanted else None

    def _finish(self, found: tuple[list[Candidates], Counter[str]]) -> Superpixels:
        """Steps 5 to 7 of an image, while the next one is prompted; see `selection.finish`."""
        parts, survivors = found
        return selection.finish(parts, self.config, self.max_superpixels, survivors)

    def _encoded(self, images: Sequence[Image]) -> Iterator[tuple[Image, Crop, bool, Tensor]]:
        """(image, crop, whether it is the image's last crop, features), encoded in batches."""
        crops = [self._crops(image) for image in images]
        jobs = [
            (image, crop, crop is own[-1])
            for image, own in zip(images, crops, strict=True)
            for crop in own
        ]
        for first in range(0, len(jobs), self.encoder_batch):
            batch = jobs[first : first + self.encoder_batch]
            views = [image[c.y0 : c.y1, c.x0 : c.x1] for image, c, _ in batch]
            for job, features in zip(batch, self.backend.embed(views), strict=True):
                yield *job, features

    def _crops(self, image: Image) -> list[Crop]:
        height, width = _size(image)
        return crop_boxes(height, width, self.config.crop_n_layers, self.config.crop_overlap_ratio)

    def _crop(
        self, features: Tensor, crop: Crop, size: tuple[int, int], survivors: Counter[str]
    ) -> Candidates:
        """Steps 1 to 4: the candidates of one crop, at image size."""
        points = crop_points(
            crop, self.config.points_per_side, self.config.crop_n_points_downscale_factor
        )
        reader = MaskReader(self.config, self._shape(crop), fused=self.fused)
        found: list[Boxed] = []

        def prompt(points: NDArray[np.float64]) -> list[Tensor]:
            covered = []
            for first in range(0, len(points), self.points_per_batch):
                chunk = points[first : first + self.points_per_batch]
                boxed, sure = self._prompt(features, chunk, crop, reader, survivors)
                found.append(boxed)
                covered.append(sure)
            return covered

        if self.hierarchical:
            first = every_second(len(points))
            covered = torch.stack(prompt(points[first])).any(0).cpu().numpy()
            points = points[~first]
            points = points[~self._lie_in(covered, points, crop)]
        prompt(points)
        inside = selection.inside_crop(concat_boxed(found), crop, size)
        survivors["edge"] += len(inside)
        best = selection.best_in_crop(inside, self.config)
        survivors["box_nms"] += len(best)
        return best.with_masks(crop, *reader.read(best.cuts), size)

    def _prompt(
        self,
        features: Tensor,
        points: NDArray[np.float64],
        crop: Crop,
        reader: MaskReader,
        survivors: Counter[str],
    ) -> tuple[Boxed, Tensor]:
        """Steps 1 and 2 for one chunk of points: decode, select, box what is stable.

        The second value is (h,w) bool, the low-resolution pixels in stable wholes that are sure.
        """
        low, outputs = self._decode(features, points, crop)
        passes = selection.passes_score(outputs.iou, outputs.level, self.config)
        stable = reader.stable(low, np.flatnonzero(passes), outputs.level)
        survivors["decoded"] += 3 * len(points)
        survivors["score"] += int(passes.sum())
        survivors["stability"] += len(stable.index)
        boxed = outputs.boxed(stable)
        sure = stable.index[selection.sure_whole(boxed.iou, boxed.level, self.config)]
        return boxed, (low[torch.from_numpy(sure).to(low.device)] > 0).any(0)

    def _lie_in(
        self, covered: NDArray[np.bool_], points: NDArray[np.float64], crop: Crop
    ) -> NDArray[np.bool_]:
        """(P,) whether the low-resolution pixel of a point of the crop is `covered` (h,w)."""
        scale = np.array(covered.shape[::-1]) / self.backend.image_size
        x, y = (to_resized(points, crop, self.backend.frame(*crop.size)) * scale).astype(np.int64).T
        inside: NDArray[np.bool_] = covered[y, x]
        return inside

    def _decode(
        self, features: Tensor, points: NDArray[np.float64], crop: Crop
    ) -> tuple[Tensor, Prompted]:
        """Of the Q points with any score that passes: logits (3Q,h,w) of all levels, and scores."""
        # The points stay in double: the published code rounds them after its own arithmetic.
        resized = torch.from_numpy(to_resized(points, crop, self.backend.frame(*crop.size)))
        low, iou = self.backend.decode(features, resized, self._any_passes)
        kept = self._any_passes(iou).numpy()
        level = np.tile(np.arange(3, dtype=np.uint8), kept.sum())
        scores = iou.cpu().numpy()[kept].ravel()
        outputs = Prompted(crop, points[kept].repeat(3, axis=0), level, scores)
        return low.float().flatten(0, 1), outputs

    def _any_passes(self, iou: Tensor) -> Tensor:
        """(P,3) predicted IoU -> (P,) bool, whether one of a point's three masks passes."""
        level = np.tile(np.arange(3, dtype=np.uint8), len(iou))
        passes = selection.passes_score(iou.flatten().cpu().numpy(), level, self.config)
        return torch.from_numpy(passes.reshape(-1, 3).any(1))

    def _shape(self, crop: Crop) -> UpsampleShape:
        side = self.backend.image_size
        return UpsampleShape(side, self.backend.frame(*crop.size), crop.size)


def _size(image: Image) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _check(image: Image) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(
            f"an image is a (H,W,3) uint8 array with pixels, got {image.shape} {image.dtype}"
        )


@contextmanager
def full_precision() -> Iterator[None]:
    """TF32 off, so that no product here loses 13 bits; the caller's setting comes back."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def embedded(sam: "SamBackend", images: Sequence[Image]) -> list[NDArray[np.float16]]:
    """(C,h,w) float16 of each image, as grid prompting gives them."""
    import torch

    from .point_grid import full_precision

    with torch.inference_mode(), full_precision():
        return [one[: sam.channels].cpu().numpy().astype(np.float16) for one in sam.embed(images)]
