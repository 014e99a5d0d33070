"""`svp export`: save a checkpoint as a self-contained folder."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ...model.pretrained import Card, ProjectorSpec, save_pretrained
from ...model.pretrained.pretrained import Adapter
from ...pipeline.cache.layout import holds_cache
from ...pipeline.cache.plan import Plan, chosen_view
from ...pipeline.display import Report, counted, show
from ...pipeline.errors import ConfigError, MissingError, PlanMismatchError
from ...pipeline.io.atomic import check_writable, writing
from ...pipeline.store import Place
from ..evaluation.exported import Exported
from ..evaluation.load_trained import (
    budget_of,
    data_of_run,
    find_trained,
    open_trained,
    require_budget_of,
    require_fit,
)
from ..evaluation.trained import Trained
from ..options import TrainFlags
from ..trainer.checkpoint import Checkpoint
from ..trainer.run_data import cache_of_run
from .evaluate import report_command
from .inputs import CACHE
from .newest_cache import find_cache
from .space import APP, MODEL, folded, write_space


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """Options of `svp export`.

    out         the new folder
    checkpoint  run or one of its checkpoints, by folder or address; None: the newest run in `runs`
    cache       any cache the model reads: it decides the projector's input; None: the run's own
    flags       where weights lie that the run started from
    adapter     LoRA "merged" or "separate"
    results     result files of `svp eval` whose metrics go into the model card
    space       write a Space of the Hugging Face hub: the model in `out/model`, beside its demo
    push        OWNER/NAME of the Hugging Face hub, a private repository that the folder is sent to;
                None: nothing is sent
    """

    out: Path
    checkpoint: Place | None = None
    runs: Place = Path("runs")
    cache: Place | None = None
    flags: TrainFlags = field(default_factory=TrainFlags)
    adapter: Adapter = "merged"
    results: tuple[Place, ...] = ()
    licence: str = "other"
    space: bool = False
    push: str | None = None

    @property
    def model(self) -> Path:
        """Folder of the model."""
        return self.out / MODEL if self.space else self.out


@dataclass(frozen=True)
class ExportReport(Report):
    """Files written: name -> bytes."""

    folder: Path
    files: Mapping[str, int]
    address: str = ""

    def lines(self) -> list[str]:
        files = [f"{name}  {size:,} bytes" for name, size in self.files.items()]
        page = [f"page: python {self.folder / APP}"] if APP in self.files else []
        said = [f"model: {self.folder}", *page, self.address]
        return [*files, *filter(None, said)]


def export_command(request: ExportRequest) -> ExportReport:
    """Write the folder.

    Raises what `open_trained` and `save_pretrained` raise; MissingError without a cache,
    PlanMismatchError for results of another checkpoint.
    """
    check_writable(request.out)
    found = find_trained(request.checkpoint, request.runs)
    if request.space and request.out.exists():
        raise ConfigError(f"{show(str(request.out), 200)}: exists already; give a new folder")
    if isinstance(found, Checkpoint):
        _save(request, found)
    elif request.space and isinstance(found, Exported):
        with writing(request.model):
            shutil.copytree(found.folder, request.model)
    else:
        raise ConfigError(f"{show(str(request.checkpoint), 300)}: is an export already: copy it")
    if request.space:
        write_space(request.out, request.out.resolve().name, request.licence)
    written = sorted(path for path in request.out.rglob("*") if path.is_file())
    files = {path.relative_to(request.out).as_posix(): path.stat().st_size for path in written}
    if request.space:
        files = folded(files)
    address = "" if request.push is None else _push(request.out, request.push, request.space)
    return ExportReport(request.out, files, address)


def _save(request: ExportRequest, found: Checkpoint) -> None:
    """Write the model."""
    cache = _cache(request, found)
    fits, budget = partial(require_fit, found), budget_of(found, None)
    # With the superpixels' order where the cache has one, so that the model takes any budget.
    plan = Plan.load(cache, chosen_view(cache, fits, _require_order))
    if plan.recipe.order is None:
        plan = Plan.load(cache, chosen_view(cache, fits))
    require_budget_of(found, budget, plan, cache)
    trained = open_trained(found, plan, request.flags)
    save_pretrained(
        trained.model,
        request.model,
        projector=_projector(trained, plan),
        tokenizer=trained.vocab.tokenizer,
        card=_card(trained, found, request),
        adapter=request.adapter,
        recipe=plan.recipe,
        budget=budget,
        system_text=trained.vocab.system,
    )


def _push(folder: Path, repository: str, space: bool = False) -> str:
    """Send the folder to the hub; the address. Raises ConfigError for what the hub refuses."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        hub = HfApi(library_name="svp")
        kind: dict[str, Any] = {"repo_type": "space"} if space else {}
        made = kind | {"space_sdk": "gradio"} if space else {}
        address = hub.create_repo(repository, private=True, exist_ok=True, **made)
        hub.upload_folder(repo_id=repository, folder_path=folder, **kind)
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ConfigError(
            f"--push {show(repository, 200)}: {show(str(error).strip().partition(chr(10))[0], 300)}; the "
            f"model is in {show(str(folder), 300)} (`hf auth login` names your account, "
            f"`hf upload {show(repository, 200)} FOLDER` sends it)"
        ) from None
    return str(address)


def _require_order(plan: Plan) -> None:
    if plan.recipe.order is None:
        raise ConfigError("no order")


def _cache(request: ExportRequest, found: Checkpoint) -> Place:
    """A cache that knows how photographs were shown: the named one, else the run's."""
    asked = request.cache or cache_of_run(data_of_run(found))
    if asked is not None:
        if not holds_cache(asked):
            raise MissingError(
                f"{show(str(asked), 300)}: no such cache: name one the model reads with --cache PATH"
            )
        return asked
    for digest in found.state.data.values():  # a run of an earlier svp records digests only
        with suppress(MissingError):
            return find_cache(digest)
    if holds_cache(CACHE):
        return CACHE
    raise MissingError(
        f"the caches that the run {show(found.path.parents[1].name)} read are not where they were: "
        "name one the model reads (of any split, made with the same recipe) with --cache PATH"
    )


def _projector(trained: Trained, plan: Plan) -> ProjectorSpec:
    config, made = trained.recipe.model.projector, trained.model.projector
    return ProjectorSpec(
        name=config.name,
        in_dim=made.in_dim,
        llm_dim=made.llm_dim,
        grid=plan.grid,
        options=config.options,
    )


def _card(trained: Trained, checkpoint: Checkpoint, request: ExportRequest) -> Card:
    recipe, state, data = trained.recipe, checkpoint.state, data_of_run(checkpoint)
    stages = ", ".join(f"{stage.name} {counted(stage.steps, 'step')}" for stage in recipe.stages)
    read = data.training if data else None
    training = {
        "data": f"{Path(read.dataset).name}, split {read.split or 'all'}"
        if read
        else "not recorded",
        "recipe": f"digest {recipe.digest()}",
        "stages": f"{stages}; global batch {recipe.global_batch}; stopped at step {state.step}",
        "start": f"language model {recipe.model.lm}, checkpoint {recipe.model.init}",
        "vision": f"{recipe.model.vision.encoder} at {recipe.model.vision.size} px",
        "checkpoint": checkpoint.digest,
        **{name: f"digest {digest}" for name, digest in state.data.items()},
    }
    held_out = {
        f"held-out while training, {k}": f"{100 * v:.2f} %" for k, v in state.scores.items()
    }
    run = checkpoint.path.parents[1].name
    metrics, scores = _metrics(checkpoint, request)
    return Card(run, request.licence, training, held_out | metrics, scores=scores)


def _metrics(
    checkpoint: Checkpoint, request: ExportRequest
) -> tuple[dict[str, str], dict[str, dict[str, float]]]:
    """gIoU and cIoU of the result files, as lines and in percent.

    Raises PlanMismatchError for another model's results.
    """
    found: dict[str, str] = {}
    scores: dict[str, dict[str, float]] = {}
    for path in request.results:
        report = report_command(path)
        other = report.header.digests.get("checkpoint")
        if other != checkpoint.digest:
            where = str(path) if isinstance(path, Path) else path.where()
            raise PlanMismatchError(
                f"{show(where, 200)}: results of checkpoint {show(other)}, this one is "
                f"{checkpoint.digest}: evaluate this checkpoint with `svp eval`"
            )
        for split in report.splits:
            size, head = split.size, report.header
            name = f"{size.dataset} {size.split}, protocol {head.protocol}"
            values = {n: round(100 * split.values[n].value, 2) for n in ("gIoU", "cIoU")}
            said = ", ".join(f"{n} {value:.2f} %" for n, value in values.items())
            found[name] = f"{said} ({counted(size.sentences, 'sentence')})"
            scores[name] = values
    return found, scores
