"""Rehearsal settings: stand-in files and reduced model sizes, from SVP_REHEARSAL.

`svp rehearse` walks the path of the paper on stand-ins of the published files. The environment
variable SVP_REHEARSAL names a YAML file that says where they lie and which widths and counts that
only cost time are smaller. Invariant: without the variable nothing here has any effect; with it
every recipe carries `MARK` in its name and every command says so, so that no result of a rehearsal
can be taken for a real one.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..display import show
from ..errors import ConfigError
from ..fetch.encoder_specs import EncoderSpec
from ..fetch.sam_specs import SAMS
from ..io.yaml_files import load_yaml

VARIABLE = "SVP_REHEARSAL"
MARK = "REHEARSAL"

Few = Annotated[int, Field(ge=1, le=1_000_000)]


class RehearsalSettings(BaseModel):
    """Reduced sizes of a rehearsal; names, layouts, files, stages and commands stay real.

    folder          stand-ins lie in it: there a file of a public name need not have its content
    sam             encoder width and number of blocks of the official SAM types
    encoder_width   of the published encoders, with heads of 64 channels; their depth stays: recipes
                    name layers
    grid_points     at most so many SAM prompts per side
    batch           at most so many images per batch of a cache: each batch is filled up to this size
    projectors      options by projector, where a recipe does not say: widths
    steps           at most so many optimizer steps per stage
    global_batch    at most so many images per step
    in_process      caches are made in the command's own process: no workers are started
    scenes          at most so many generated scenes, per split of the quickstart
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path
    sam: dict[str, tuple[Few, Few]] = Field(default_factory=dict)
    encoder_width: Few | None = None
    grid_points: Few | None = None
    batch: Few | None = None
    projectors: dict[str, dict[str, Few]] = Field(default_factory=dict)
    steps: Few | None = None
    global_batch: Few | None = None
    scenes: Few | None = None
    in_process: bool = False

    @property
    def encoder_heads(self) -> int:
        """Of the encoders that are `encoder_width` wide; 64 channels each, as published."""
        return max(1, (self.encoder_width or 0) // 64)

    def covers(self, path: Path) -> bool:
        """Whether `path` is one of the stand-ins."""
        return path.resolve().is_relative_to(self.folder.resolve())

    def precompute(self, raw: dict[str, Any]) -> None:
        """Turn down a raw recipe of `svp precompute`, in place."""
        batch = raw.get("batch", 8)
        if self.batch and isinstance(batch, int):
            raw["batch"] = min(batch, self.batch)
        pixels = raw.setdefault("superpixels", {})
        grid = pixels.get("grid") or {}
        asked = int(grid.get("points_per_side", 32))
        sam = SAMS.get(str(pixels.get("model", "tiny")))
        if (sam is not None and sam.stand_in) or pixels.get("source") == "slic":
            return
        if self.grid_points and asked > self.grid_points:
            if pixels.get("preset", "svp") not in ("windows", "hierarchical"):
                pixels["preset"] = "custom"
            pixels["grid"] = {**grid, "points_per_side": self.grid_points}

    def train(self, raw: dict[str, Any]) -> None:
        """Turn down a raw recipe of `svp train`, in place."""
        name = str(raw.get("name", "custom"))
        raw["name"] = name if MARK in name else f"{name}-{MARK}"
        if self.global_batch:
            raw["global_batch"] = min(int(raw.get("global_batch", 160)), self.global_batch)
            run = raw.setdefault("run", {})
            if isinstance(run.get("micro_batch"), int):
                run["micro_batch"] = min(run["micro_batch"], self.global_batch)
        chosen = (raw.get("model") or {}).get("projector")
        if isinstance(chosen, dict) and chosen.get("name") in self.projectors:
            chosen["options"] = self.projectors[chosen["name"]] | (chosen.get("options") or {})
        for stage in raw.get("stages") or ():
            if self.steps and isinstance(stage, dict) and isinstance(stage.get("steps"), int):
                stage["steps"] = min(stage["steps"], self.steps)
                stage["warmup"] = min(int(stage.get("warmup", 100)), stage["steps"] - 1)

    def line(self) -> str:
        """For people."""
        return (
            f"{MARK}: stand-in weights of {show(str(self.folder), 200)} and a shortened recipe; "
            "nothing this prints is a result"
        )


def rehearsal_settings() -> RehearsalSettings | None:
    """Settings of the rehearsal that this process belongs to, if any.

    Raises ConfigError, MissingError for a file that is none.
    """
    named = os.environ.get(VARIABLE)
    return _read(named) if named else None


@lru_cache(maxsize=4)
def _read(named: str) -> RehearsalSettings:
    path = Path(named)
    try:
        return RehearsalSettings.model_validate(load_yaml(path))
    except ValidationError as error:
        raise ConfigError(f"{VARIABLE}={show(named, 200)}: {show(str(error), 400)}") from None


def narrowed(spec: EncoderSpec) -> EncoderSpec:
    """The row of an encoder, in a rehearsal with the width and heads of its stand-in."""
    found = rehearsal_settings()
    if found is None or not found.encoder_width or spec.stand_in:
        return spec
    return replace(spec, hidden=found.encoder_width, heads=found.encoder_heads, mlp=0)


def few_scenes(count: int) -> int:
    """`count` generated scenes, or what the rehearsal allows."""
    found = rehearsal_settings()
    return min(count, found.scenes) if found and found.scenes else count


def shrink_for_rehearsal(change: Callable[[RehearsalSettings], None]) -> bool:
    """Apply `change` in a rehearsal; return whether it is one."""
    found = rehearsal_settings()
    if found is not None:
        change(found)
    return found is not None
