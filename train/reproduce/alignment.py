"""Alignment by captions: the start of every row on world 2, made once.

No superpixel and no code of a place takes part: a plain MLP on all patches, texts about whole images.
"""

import logging
from pathlib import Path

from ...model.pretrained.config import is_export
from ..runs.export import ExportRequest, export_command
from ..runs.inputs import DataRequest, TrainRequest
from ..runs.train import train_command
from .caches import Caches
from .experiment import Row
from .request import ReproduceRequest, data_of, scenes_of
from .trial_folder import at_work, timed

log = logging.getLogger(__name__)


def align(request: ReproduceRequest) -> Path:
    """Train and export it, or find it. Raises what caches, training and export raise."""
    out = request.aligned
    if is_export(out):
        return out
    data, runs = data_of(request), request.runs / "align-world2"
    cache = Caches(request, data).get(Row("alignment"), data.dataset, "train")
    with at_work(runs), timed(runs / "train.spent.json"):
        log.info(f"alignment: {runs}")
        run = train_command(
            TrainRequest(
                caches=(cache,),
                data=DataRequest(dataset=str(scenes_of(request) / "captions.jsonl")),
                size="align-world2",
                runs=runs,
                resume="auto",
                device=request.device,
                hint=request.hint,
            )
        ).folder
        export_command(ExportRequest(out=out, checkpoint=run))
    return out
