"""Published baseline: segment-anything's mask generator plus FMA filter, on given logits.

`SamAutomaticMaskGenerator`, `SamPredictor` and `Sam.postprocess_masks` run unmodified on a `Sam`
whose three networks only hand out stored outputs. FMA-WSSS's two score offsets enter through the
stored scores: a whole that passes with its bonus carries score + 1, one that does not carries 0,
which makes the package's own threshold and NMS decide as FMA-WSSS does. Levels are looked up
afterwards by (point, score). The filter is written from its specification in the published shape:
decode every RLE, N1 x N2 x H x W broadcast in chunks of 50, recall in fp32.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import MissingPackageError
from ..recipe import GridConfig
from .synthetic_masks import DecoderOutputs, Replay

CHUNK = 50  # masks per broadcast in the published filter
POINTS_PER_BATCH = 64  # the package's default


@dataclass
class Watch:
    """CPU seconds of this process by stage; other processes on the machine do not count."""

    seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its time added to `stage`."""

        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.process_time() - start
                self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

        return run


@dataclass(frozen=True, slots=True)
class Found:
    """Superpixels of the baseline: COCO compressed counts and level, in its order."""

    counts: tuple[bytes, ...]
    level: NDArray[np.int64]
    candidates: int  # masks before the level filter


def published_superpixels(
    outputs: DecoderOutputs, size: tuple[int, int], config: GridConfig, watch: Watch
) -> Found:
    """Runs the baseline on one image of `size` (H,W) without crops; stages go into `watch`."""
    generator = _generator(outputs, config, watch)
    image = np.zeros((*size, 3), np.uint8)
    annotations = watch.timed("total", generator.generate)(image)
    levels = _levels(annotations, outputs, size, config)
    kept = watch.timed("total", watch.timed("filter", level_filter))(
        [a["segmentation"] for a in annotations], levels, config.rock_sand_water_thresh
    )
    return Found(_compressed([annotations[i] for i in kept], size), levels[kept], len(annotations))


def level_filter(rles: list[dict[str, Any]], levels: NDArray[np.int64], limit: float) -> list[int]:
    """The published level filter on uncompressed RLEs; kept indices in output order."""
    from segment_anything.utils.amg import rle_to_mask

    kept: list[int] = []
    masks = [torch.from_numpy(rle_to_mask(rle)) for rle in rles]
    for level in (2, 1, 0):
        members = np.flatnonzero(levels == level).tolist()
        if kept and members:
            wanted = torch.stack([masks[i] for i in members])
            recall = _shared(wanted, torch.stack([masks[i] for i in kept])).float()
            recall = recall / wanted.sum(dim=(1, 2))[:, None]
            members = [i for i, r in zip(members, recall.amax(1), strict=True) if r < limit]
        kept += members
    return kept


def _shared(wanted: Tensor, kept: Tensor) -> Tensor:
    """(N1,N2) common pixels of (N1,H,W) and (N2,H,W) bool."""
    parts = [(part[:, None] & kept[None]).sum(dim=(2, 3)) for part in torch.split(wanted, CHUNK)]
    return torch.cat(parts)


def _generator(outputs: DecoderOutputs, config: GridConfig, watch: Watch) -> Any:
    try:
        import cv2  # noqa: F401  (the package's clean-up imports it late)
        from segment_anything import SamAutomaticMaskGenerator
    except ImportError as error:
        raise MissingPackageError(
            "segment-anything and opencv-python-headless", "dev", "this benchmark"
        ) from error
    return SamAutomaticMaskGenerator(
        _canned_sam(outputs, config, watch),
        points_per_side=config.points_per_side,
        points_per_batch=POINTS_PER_BATCH,
        pred_iou_thresh=config.pred_iou_thresh,
        stability_score_thresh=config.stability_score_thresh,
        stability_score_offset=config.stability_score_offset,
        box_nms_thresh=config.box_nms_thresh,
        min_mask_region_area=config.min_mask_region_area,
        output_mode="uncompressed_rle",
    )


def _canned_sam(outputs: DecoderOutputs, config: GridConfig, watch: Watch) -> Any:
    from segment_anything.modeling import Sam

    sam = Sam(
        _Encoder(outputs.image_size),
        _Prompts(),
        _Decoder(DecoderOutputs(outputs.low, _scores(outputs.iou, config))),
    )
    sam.mask_decoder.forward = watch.timed("decode", sam.mask_decoder.forward)
    sam.postprocess_masks = watch.timed("upscale", sam.postprocess_masks)
    return sam


class _Encoder(nn.Module):
    def __init__(self, img_size: int) -> None:
        super().__init__()
        self.img_size = img_size

    def forward(self, image: Tensor) -> Tensor:
        return image.new_zeros(1, 1, 1, 1)


class _Prompts(nn.Module):
    def forward(self, points: tuple[Tensor, Tensor], **_: object) -> tuple[Tensor, None]:
        return points[0], None

    def get_dense_pe(self) -> None:
        return None


class _Decoder(nn.Module):
    def __init__(self, outputs: DecoderOutputs) -> None:
        super().__init__()
        self._replay = Replay(outputs)

    def forward(self, *, sparse_prompt_embeddings: Tensor, **_: object) -> tuple[Tensor, Tensor]:
        return self._replay.next(len(sparse_prompt_embeddings))


def _scores(iou: Tensor, config: GridConfig) -> Tensor:
    """(P,3) scores that carry FMA-WSSS's offsets through the unmodified package."""
    passes = iou + torch.tensor(config.score_thresh_offset) > config.pred_iou_thresh
    ranked = iou + torch.tensor(config.score_nms_offset)
    return torch.where(passes, ranked, torch.zeros(()))


def _levels(
    annotations: list[dict[str, Any]],
    outputs: DecoderOutputs,
    size: tuple[int, int],
    config: GridConfig,
) -> NDArray[np.int64]:
    """Index of the output (of the three of its point) of each annotation."""
    side = round(len(outputs.iou) ** 0.5)
    scores = _scores(outputs.iou, config).numpy()
    levels = []
    for annotation in annotations:
        x, y = annotation["point_coords"][0]
        prompt = int(y / size[0] * side) * side + int(x / size[1] * side)
        levels.append(int(np.argmin(np.abs(scores[prompt] - annotation["predicted_iou"]))))
    return np.array(levels, np.int64)


def _compressed(annotations: list[dict[str, Any]], size: tuple[int, int]) -> tuple[bytes, ...]:
    from pycocotools import mask as coco

    rles = [annotation["segmentation"] for annotation in annotations]
    return tuple(rle["counts"] for rle in coco.frPyObjects(rles, *size)) if rles else ()
