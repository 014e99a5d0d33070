"""Build a model from a converted checkpoint, one tensor at a time.

Peak memory is the model plus one tensor: modules are built on the meta device and the sources stay
memory-mapped. The projector is the caller's: published checkpoints hold none of ours.
"""

import torch

from ...pipeline.sam.build import build_sam
from ...pipeline.weights.fill_module import fill
from ..language.load import build_lm, fill_lm
from ..mask_head import MaskHead
from ..projectors.base import Projector
from ..ris import MaskState, RisModel
from .convert import Imported


def build_imported(
    imported: Imported,
    projector: Projector,
    *,
    dtype: torch.dtype = torch.bfloat16,
    mask_state: MaskState = "predicting",
) -> RisModel:
    """The model of a checkpoint with `projector` in front, on the CPU.

    The language model gets `dtype`, and where its file has that too its parameters are the mapped
    file itself: nothing is copied, and the ranks of one machine share its pages. L-P projector and mask head are float32 (the checkpoint's own
    precision there). Raises WeightsError if a tensor holds NaN or infinity.
    """
    with torch.device("meta"):
        lm = build_lm(imported.shape.config()).to(dtype)
    sam = build_sam("vit_h")
    fill_lm(lm, imported.lm, "language model", mapped=True, checked=imported.finite)
    fill(sam.mask_decoder, imported.mask_decoder, "mask decoder")
    fill(sam.prompt_encoder, imported.prompt_encoder, "prompt encoder")
    head = MaskHead(sam.prompt_encoder, sam.mask_decoder)
    model = RisModel(lm, projector, head, mask_state=mask_state)
    fill(model.to_prompt, imported.to_prompt, "L-P projector")
    return model
