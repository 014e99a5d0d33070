"""Typical batch for memory and time estimates, without data.

Text ids and answers are LLaMA's on RefCOCO (docs/benchmarks.md); the photograph has COCO's most
frequent size; for the tiny models it is a generated scene. Values are of no use, sizes are.
"""

import torch

from ...model.batch import IGNORE, Batch, Visual
from ...pipeline.cache.plan import Plan
from ...pipeline.datasets.scenes.make import SIZE
from ...pipeline.fetch.sam_specs import SAMS
from ..recipe import TrainRecipe

SUPERPIXELS = 40  # per photograph, the paper's mean
PROMPT, TURN, ANSWER = 72, 28, 8  # text ids of a dialogue of one turn, of each more, of an answer
SLOT = 38  # text index of <image>
PHOTO = (480, 640)


def typical_image(
    recipe: TrainRecipe, plan: Plan, superpixels: int = SUPERPIXELS, text: int | None = None
) -> Batch:
    """A batch of one image, as `recipe` draws it from caches with `plan`, on the CPU.

    text  text ids of the dialogue; None: those of `sentences_per_image` turns
    """
    turns = recipe.data.sentences_per_image
    length = max(text or PROMPT + (turns - 1) * TURN, SLOT + 1 + turns * ANSWER)
    patches, channels = plan.patches, plan.channels
    visual = Visual(
        torch.randn(1, patches, channels),
        plan.grid,
        cover=torch.rand(1, superpixels, patches),
        masks=torch.ones(1, superpixels, *plan.sspe, dtype=torch.uint8),
        valid=torch.ones(1, superpixels, dtype=torch.bool),
        cls=torch.randn(1, channels),
        multi=torch.randn(1, patches, plan.multi_channels or 4 * channels),
    )
    labels = torch.full((1, length), IGNORE)
    ends = [length - turn * max(ANSWER, (length - SLOT) // turns) for turn in range(turns)]
    for end in ends:
        labels[0, end - ANSWER : end] = 1
    spec = SAMS[plan.recipe.superpixels.model]
    height, width = photo = SIZE if spec.stand_in else PHOTO
    assert plan.sam is not None
    return Batch(
        visual=visual,
        ids=torch.zeros(1, length, dtype=torch.int64),
        lengths=torch.tensor([length]),
        labels=labels,
        slot=torch.tensor([SLOT]),
        seg_row=torch.zeros(turns, dtype=torch.int64),
        seg_col=torch.tensor(sorted(end - 3 for end in ends)),
        sam=torch.randn(1, *plan.sam),
        square=spec.image_size,
        sizes=(photo,),
        packed=(torch.zeros(turns, (height * width + 7) // 8, dtype=torch.uint8),),
        sent_ids=(tuple(range(turns)),),
    )
