"""Generated scenes, a cache's plan without rows, and a run and an export of an untrained model."""

import json
from pathlib import Path
from typing import Any

from svp.pipeline.cache import create_cache
from svp.pipeline.datasets import open_dataset
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.precompute.options import Flags, resolve
from svp.pipeline.precompute.planner import Content, build_plan
from svp.train.factory import assemble
from svp.train.options import Places
from svp.train.recipe import parse_train_recipe
from svp.train.runs.export import ExportRequest, export_command
from svp.train.trainer.checkpoint import State, save_checkpoint
from svp.train.trainer.prepare import make_ready

RECIPE = {
    "model": {
        "init": "none", "lm": "random:0", "sam_decoder": "shipped", "dtype": "float32",
        "shape": {"hidden": 16, "intermediate": 24, "layers": 1, "heads": 2, "kv_heads": 2},
        "vision": {"encoder": "tiny", "size": 128},
        "projector": {"name": "mlp"},
    },
    "stages": [{"name": "one", "steps": 2, "warmup": 0}],
}  # fmt: skip
SVP = {
    "name": "svp", "options": {"num_queries": 2, "sspe_dim": 8, "sspe_heads": 2, "sspe_blocks": 1,
                               "sspe_ffn": 16, "ssa_heads": 2, "ssa_blocks": 1, "ssa_ffn": 16,
                               "mlp_hidden": 16},
}  # fmt: skip


def make(root: Path, projector: dict[str, Any] | None = None) -> None:
    """`scenes`, `cache`, `runs/run` and `export` in `root`; projector: of the recipe, in place of MLP."""
    scenes = write_scenes(root / "scenes", images=2, seed=9, splits={"train": 1, "val": 1})
    source = open_dataset(scenes, split="val")
    flags = Flags(points_per_side=4, store_sam_embeddings=True)
    looks, _ = resolve("tiny", None, flags, (), source.image_root)
    plan = build_plan(Content(source.images, "val", source.sha256), looks, source.image_root)
    create_cache(root / "cache", plan)
    model = RECIPE["model"] | ({"projector": projector} if projector else {})  # type: ignore[operator]
    recipe = parse_train_recipe(RECIPE | {"model": model}, "micro")
    made = assemble(recipe, plan, Places())
    make_ready(made.model, recipe, 0, made.new_rows)
    trained = {n: p.detach() for n, p in made.model.named_parameters() if p.requires_grad}
    state = State(
        schema_version=1, step=1, stage=0, stage_step=1, recipe=json.loads(recipe.canonical()),
        data={}, cursor={}, world=1, micro_batch=1,
    )  # fmt: skip
    save_checkpoint(root / "runs" / "run" / "checkpoints", state, trained, {})
    export_command(ExportRequest(out=root / "export", runs=root / "runs", cache=root / "cache"))
