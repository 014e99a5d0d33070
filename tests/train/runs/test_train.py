"""`svp train` from its request to the run folder, on a real cache of four generated scenes."""

import gc
import json
import re
import shutil
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from support.told import failures
from svp.model.projectors import PROJECTORS
from svp.pipeline.cache.places import DataPlaces, write_places
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.errors import CacheError, ConfigError, MissingError, PlanMismatchError
from svp.pipeline.precompute import launch as precompute
from svp.pipeline.precompute.options import Flags
from svp.pipeline.precompute.run import RunOptions
from svp.pipeline.weights.load import weights_digest
from svp.train.data.cache_fit import require_cache
from svp.train.data.collate import CachedVisuals
from svp.train.data.expression_table import Entry
from svp.train.factory import assemble
from svp.train.options import TrainFlags, resolve_train
from svp.train.runs import inputs, train
from svp.train.runs.dry_run import dry_run_command
from svp.train.runs.inputs import DataRequest, TrainRequest, open_training, with_caches
from svp.train.runs.train import train_command
from svp.train.trainer import first_lesson

RANDOM = TrainFlags(lm="random:0", sam_decoder="shipped")
SMALL = (
    "model.shape={hidden: 32, intermediate: 64, layers: 1, heads: 2, kv_heads: 2}",
    "stages.0={name: align, steps: 2, warmup: 0, add_sspe: false}",
    "stages.1={name: finetune, steps: 1, warmup: 0, lora: true}",
    "global_batch=2",
    "run={micro_batch: 1, gradient_checkpointing: true, preview: 2, checkpoint: 1, log: 1}",
)

PAIR = re.compile(r"([0-9.]+) -> ([0-9.]+)")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `scenes` and `cache`, four images of its train split."""
    root = tmp_path_factory.mktemp("world")
    write_scenes(root / "scenes", images=20, seed=3)
    request = precompute.Request(
        dataset=str(root / "scenes"),
        split="train",
        out=root / "cache",
        flags=Flags(points_per_side=8, store_sam_embeddings=True),
        run=RunOptions(workers=0, limit=4),
        quiet=True,
    )
    precompute.launch(request, precompute.open_request(request))
    return root


@pytest.fixture
def asked(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainRequest:
    monkeypatch.setattr(inputs, "TABLES", world / "tables")
    return TrainRequest(
        caches=(world / "cache",),
        data=DataRequest(dataset=str(world / "scenes")),
        flags=RANDOM,
        overrides=SMALL,
        partial=True,
        runs=tmp_path / "runs",
        device="cpu",
    )


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_it_promises(
    asked: TrainRequest, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    report = train_command(asked)
    run = report.folder
    assert run.name.startswith("tiny-") and report.steps == 3 and report.exit_code == 0
    assert len(losses(run)) == 3 and np.isfinite(losses(run)).all()
    assert sorted(p.name for p in (run / "previews").iterdir()) == [
        "step-00000002.png", "step-00000003.png"]  # fmt: skip
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["global_batch"] == 2 and config["on"].keys() >= {"table", "cache 0"}
    texts = "".join(p.read_text() for p in run.iterdir() if p.is_file())
    assert "hf_secret" not in texts and "stage align: 2 steps" in texts
    assert any("was made with --limit, and 10 others" in line for line in logged.messages)

    again = train_command(replace(asked, resume="auto"))
    assert (again.folder, again.images) == (run, 0)
    other = replace(asked, overrides=(*SMALL, "seed=7"))
    with pytest.raises(PlanMismatchError, match=r"recipe\.seed: checkpoint has 0, this run 7"):
        train_command(replace(other, resume=str(run)))
    with pytest.raises(MissingError, match="neither a checkpoint nor a run folder"):
        train_command(replace(asked, resume=str(run / "previews")))


def test_records_and_annotations_are_let_go_before_the_first_step(
    asked: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table has what training reads; a source holds a kilobyte of every sentence."""
    sources: list[weakref.ref[Any]] = []
    alive: list[bool] = []
    plain_source, plain_train = inputs.source_of, train.train

    def source_of(*arguments: Any) -> Any:
        found = plain_source(*arguments)
        sources.append(weakref.ref(found))
        return found

    def train_seen(job: Any) -> Any:
        gc.collect()
        alive.extend(source() is not None for source in sources)
        return plain_train(job)

    monkeypatch.setattr(inputs, "source_of", source_of)
    monkeypatch.setattr(train, "train", train_seen)
    report = train_command(asked)
    assert alive == [False]
    assert " -- " in report.next[1] and report.next[1].startswith("svp predict")


def test_live_equals_cached_within_float16_rounding(asked: TrainRequest, world: Path) -> None:
    live = open_training(replace(asked, live=True), "cpu").readers[0]
    stored = CacheReader(world / "cache")
    entries = [Entry("refcoco", int(stored.ids[i]), 0, i, 128, 128) for i in (0, 3)]
    (a, sam_a, _), (b, sam_b, _) = (
        CachedVisuals([reader], {"masks"}).read(entries, [None, 5]) for reader in (stored, live)
    )
    assert torch.equal(a.masks, b.masks) and torch.equal(a.cover, b.cover)
    for one, two in ((a.patches, b.patches), (sam_a, sam_b)):
        rounding = 2**-10 * one.abs().float().clamp(min=1)  # one unit in float16's last place
        assert ((one.float() - two.float()).abs() <= rounding).all()
    runs = [train_command(replace(asked, live=value)).folder for value in (False, True)]
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), rel=2e-3)


def test_dry_run_prints_the_table_without_weights_or_cache() -> None:
    report = dry_run_command(TrainRequest(size="paper"))
    assert [table.trainable for table in report.tables.values()] == [336_463_204, 416_417_124]
    assert "global batch 160 = 1 image x 160 accumulated x processes" in report.lines()


def test_dry_run_on_a_cache_tells_tokens_memory_and_time(asked: TrainRequest) -> None:
    report = dry_run_command(asked)
    text = "\n".join(report.lines())
    assert report.images == 4 and report.length is not None and report.length.mean > 2
    for part in ("visual tokens per image", "optimizer", "time: ", "1.5 passes"):
        assert part in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.vision.encoder=dinov2-large", "was made with tiny, view squash, 128 px; the rec"),
        ("model.vision.view=pad", "wants tiny, view pad, 128 px"),
        ("model.vision.size=140", "svp precompute .*--set features.size=140 --out .*cache`"),
        ("stages.0.trains=[projector]", r"embedding layer is frozen and its \[SEG\] row"),
        ("model.shape.depth=3", "model.shape=.*allowed are vocab, hidden"),
        ("global_batch=3", "micro_batch 2 x accumulation x 1 ranks"),
        ("stages.1.name=align", "a name occurs twice"),
        ("model.init=none", "say where lm and sam_decoder start from"),
        ("run.keep=many", "run.keep=many"),
    ],
)
def test_wrong_setups_are_refused(asked: TrainRequest, override: str, message: str) -> None:
    flags = TrainFlags() if "init" in override else RANDOM
    overrides = (*SMALL, "run.micro_batch=2", override)
    with pytest.raises((ConfigError, PlanMismatchError), match=message) as caught:
        train_command(replace(asked, overrides=overrides, flags=flags))
    assert caught.value.exit_code == 2
    assert not asked.runs.exists()


def test_toy_models_are_refused_on_other_data(asked: TrainRequest, tmp_path: Path) -> None:
    """The same photographs in a folder that is no set of generated scenes."""
    dataset = Path(asked.data.dataset or "")
    shutil.copytree(dataset / "images", tmp_path / "photos")
    other = replace(asked, data=replace(asked.data, images=tmp_path / "photos"))
    with pytest.raises(ConfigError, match="the tiny SAM and the tiny encoder know .*svp train"):
        open_training(other, "cpu")
    assert open_training(replace(other, size="tiny"), "cpu").source.generated is False

    # A cache that was made with --size tiny has been allowed to.
    allowed = tmp_path / "allowed"
    shutil.copytree(other.caches[0], allowed)
    write_places(allowed, DataPlaces(dataset=str(dataset), images=tmp_path, size="tiny"))
    said = with_caches(replace(other, caches=(allowed,)))
    assert said.size == "tiny"
    assert open_training(said, "cpu").source.generated is False
    assert with_caches(replace(said, size="paper")).size == "paper", "what is said counts"
    assert open_training(asked, "cpu").source.generated


def test_a_projector_whose_inputs_the_cache_lacks_is_refused(
    asked: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NeedsCls(PROJECTORS["svp"]):  # type: ignore[misc]
        needs = frozenset({"masks", "cls"})

    monkeypatch.setitem(PROJECTORS, "svp", NeedsCls)
    with pytest.raises(
        ConfigError, match=r"projector svp reads the CLS token, which cache \w+ does not"
    ):
        train_command(asked)


def test_a_cache_without_sam_embeddings_is_refused(asked: TrainRequest) -> None:
    opened = open_training(asked, "cpu")
    plan = replace(opened.readers[0].plan, sam=None, recipe=opened.readers[0].plan.recipe.model_copy(
        update={"store_sam_embeddings": False}))  # fmt: skip
    with pytest.raises(ConfigError, match="reads the SAM image embedding"):
        require_cache(opened.recipe, plan)


def test_without_a_cache_the_command_that_makes_it_is_named(asked: TrainRequest) -> None:
    with pytest.raises(MissingError, match=r"no such cache: .*svp precompute --split train"):
        train_command(replace(asked, caches=(Path("nowhere"),)))


def test_a_plain_language_model_folder_gets_its_special_tokens(
    asked: TrainRequest, tmp_path: Path
) -> None:
    """A LLaMA without [SEG]: rows are added, and its digest stands in the recipe."""
    import shutil

    import svp
    from svp.model.conversion.llama_shape import LlamaShape
    from svp.model.language.load import random_lm

    tiny = Path(svp.__file__).parent / "workflows" / "tiny" / "lm" / "tokenizer.json"
    folder = tmp_path / "llama"
    shape: dict[str, Any] = {"hidden": 32, "intermediate": 64, "layers": 1, "heads": 2}
    random_lm(LlamaShape(vocab=680, kv_heads=2, **shape).config()).save_pretrained(folder)
    shutil.copy(tiny, folder)
    recipe, places = resolve_train(
        "tiny", None, TrainFlags(lm=str(folder), sam_decoder="random:1"), SMALL
    )
    assert str(recipe.model.lm) == f"sha256:{weights_digest(folder)}"
    made = assemble(recipe, open_training(asked, "cpu").readers[0].plan, places)
    assert made.model.lm.get_input_embeddings().num_embeddings == made.vocab.size > 680
    assert not any(p.requires_grad for p in made.model.parameters())


@pytest.mark.parametrize("name", ["svp", "mlp", "qformer"])
def test_a_warm_projector_starts_from_what_fits(asked: TrainRequest, name: str) -> None:
    plan = open_training(asked, "cpu").readers[0].plan
    starts = []
    for warm in ("true", "false"):
        flags = TrainFlags(projector=None if name == "svp" else name)
        recipe, places = resolve_train("tiny", None, flags, [f"model.warm_projector={warm}"])
        starts.append(assemble(recipe, plan, places).model.projector.state_dict())
    changed = {n for n, value in starts[0].items() if not torch.equal(value, starts[1][n])}
    mlp = {f"mlp.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    assert changed == (set() if name == "qformer" else mlp)


def test_a_run_that_goes_on_has_had_its_lesson(
    asked: TrainRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons: list[int] = []

    def imitate(*arguments: Any) -> str:
        lessons.append(1)
        return "imitated"

    monkeypatch.setattr(train, "imitate", imitate)
    steps = [change for change in SMALL if not change.startswith("model.shape")]
    request = replace(asked, flags=TrainFlags(), overrides=tuple(steps))
    whole = train_command(request).folder
    expected = losses(whole)
    shutil.rmtree(max((whole / "checkpoints").glob("step-*")))
    assert train_command(replace(request, resume="auto")).folder == whole
    assert losses(whole) == expected and lessons == [1]


def test_a_model_from_parts_has_a_first_lesson_once(
    asked: TrainRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Words, places and clicks are learned before the first step, not again where a run goes on, and
    the same whatever the micro-batch is.
    """
    monkeypatch.setattr(first_lesson, "STEPS", 40)
    monkeypatch.setattr(first_lesson, "DECODER_STEPS", 25)
    caplog.set_level("INFO")
    # The decoder's lesson outlives a stage in which the decoder does not train.
    stage = (
        "{name: clicks, steps: 2, warmup: 0, trains: [projector, embedding, lm_head, to_prompt]}"
    )
    clicks = (*SMALL, f"stages.0={stage}", "model.first_lesson=true", "loss.click=4")
    request = replace(asked, overrides=clicks)
    whole = train_command(request).folder
    (line,) = [text for text in caplog.messages if text.startswith("first lesson")]
    words, places, dice = (tuple(map(float, pair)) for pair in PAIR.findall(line))
    assert words[1] < 0.8 * words[0] and places[1] < 0.8 * places[0]
    assert dice[1] < dice[0] < 0.5  # SAM's decoder knows clicks before
    expected = losses(whole)

    shutil.rmtree(max((whole / "checkpoints").glob("step-*")))
    assert train_command(replace(request, resume="auto")).folder == whole
    assert losses(whole) == expected
    assert len([text for text in caplog.messages if text.startswith("first lesson")]) == 1

    two = replace(request, runs=asked.runs.with_name("two"), flags=replace(RANDOM, micro_batch=2))
    assert losses(train_command(two).folder) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("step", "fails"), [("warm start", "imitate"), ("set-up", "write_run_data")]
)
def test_an_error_before_the_first_step_is_told_to_the_other_processes(
    asked: TrainRequest, monkeypatch: pytest.MonkeyPatch, step: str, fails: str
) -> None:
    def full(*arguments: Any) -> None:
        raise CacheError("no space")

    told = failures(monkeypatch)
    monkeypatch.setattr(train, fails, full)
    steps = tuple(change for change in SMALL if not change.startswith("model.shape"))
    with pytest.raises(CacheError, match="no space"):
        train_command(replace(asked, flags=TrainFlags(), overrides=steps))
    assert told == [(step, "no space")]


@pytest.mark.gpu
def test_a_gpu_trains_what_the_cpu_trains(asked: TrainRequest) -> None:
    """The same losses in float32; also from encoders in the loop, in bfloat16, and resumed."""

    def losses_of(request: TrainRequest) -> list[float]:
        AcceleratorState._reset_state(reset_partial_state=True)  # else the device stays the first's
        return losses(train_command(request).folder)

    expected = losses_of(asked)
    on_gpu = replace(asked, device="cuda")
    for live in (False, True):
        request = replace(on_gpu, live=live, runs=asked.runs.with_name(f"live-{live}"))
        assert losses_of(request) == pytest.approx(expected, rel=5e-3)
    half = replace(
        on_gpu, overrides=(*SMALL, "model.dtype=bfloat16"), runs=asked.runs.with_name("half")
    )
    assert losses_of(half) == pytest.approx(expected, rel=0.05)
    (whole,) = half.runs.iterdir()
    assert torch.cuda.max_memory_allocated() > 0
    shutil.rmtree(max((whole / "checkpoints").glob("step-*")))
    assert losses_of(replace(half, resume=str(whole))) == pytest.approx(expected, rel=0.05)
