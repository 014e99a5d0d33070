"""lmms-eval: a model class for its registry, and tasks of referring segmentation.

The entry point `svp` of the group `lmms_eval.models` names `manifest`. Tasks are the YAML files of
`TASKS`, for `--include_path`; they read the data set that SVP_DATASET names.
"""

from pathlib import Path
from typing import Any

TASKS = Path(__file__).parents[2] / "workflows" / "lmms_eval"


def manifest() -> Any:
    """The `ModelManifest` of `--model svp`, as the registry of lmms-eval 0.7 reads it."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("svp", simple_class_path="svp.integrations.lmms_eval.model.SvpModel")
