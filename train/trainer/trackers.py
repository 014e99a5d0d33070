"""Experiment trackers of accelerate by `--log`: TensorBoard, Weights & Biases, MLflow, trackio.

A tracker of a server gets a project `svp`, a run named as the run folder, and the recipe as its
configuration; where it is and who may write there, its own environment variables say. TensorBoard
has neither: its files lie in the folder, under `tensorboard/`.
"""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...pipeline.display import show
from ...pipeline.errors import ConfigError, MissingPackageError
from ...pipeline.io.yaml_files import load_yaml
from ..recipe import CONFIG

NONE = "none"
PROJECT = "svp"


def chosen_trackers(asked: str | None) -> tuple[str, ...]:
    """Names of trackers by commas; none for `none`. None: TensorBoard where it is installed.

    Raises ConfigError for an unknown name, MissingPackageError for a tracker not installed.
    """
    if asked is None:
        return ("tensorboard",) if find_spec("tensorboard") else ()
    names = tuple(dict.fromkeys(name.strip() for name in asked.split(",")))
    if names == (NONE,):
        return ()
    missing = {
        "tensorboard": MissingPackageError("tensorboard", "train", "--log tensorboard"),
        "wandb": MissingPackageError("wandb", "wandb", "--log wandb"),
        "mlflow": MissingPackageError("mlflow", "mlflow", "--log mlflow"),
        "trackio": MissingPackageError("trackio", "trackio", "--log trackio"),
    }
    for name in names:
        if name not in missing:
            raise ConfigError(
                f"--log {show(asked)}: {show(name)} is no tracker: name some of "
                f"{', '.join(missing)} by commas, or {NONE} alone"
            )
        if find_spec(name) is None:
            raise missing[name]
    return names


def start_tracker(name: str, folder: Path, step: int) -> Any:
    """The tracker for the run in `folder`, resumed after `step` steps.

    Raises ConfigError with the tracker's own words if it refuses: not logged in, no such server.
    """
    from accelerate import tracking

    run = {"name": folder.name}
    if name == "tensorboard":
        made = tracking.TensorBoardTracker(name, str(folder), purge_step=step + 1)
    elif name == "wandb":
        made = tracking.WandBTracker(PROJECT, **run, id=folder.name, resume="allow", dir=folder)
    elif name == "mlflow":
        made = tracking.MLflowTracker(PROJECT, run_name=folder.name)
    else:
        made = tracking.TrackioTracker(PROJECT, **run, resume="allow")
    try:
        made.start()
        if name != "tensorboard":
            made.store_init_configuration(dict(_flat(load_yaml(folder / CONFIG))))
    except Exception as error:
        raise ConfigError(
            f"--log {name}: it does not start: {show(str(error), 300)}: set it up as its own "
            f"documentation says, or train with --log {NONE}"
        ) from error
    return made


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{a: {b: 1}}` as `a.b`: 1; lists as text, since not every tracker takes them."""
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(item) if isinstance(item, list) else item
