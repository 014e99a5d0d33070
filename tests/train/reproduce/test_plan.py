"""The plan at the paper's size: a shell script whose commands find each other's files."""

import functools
import json
import shlex
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from svp.cli import main
from svp.pipeline.errors import ConfigError
from svp.train.cli_defaults import GPU_NAMES
from svp.train.estimates.gpus import GPUS
from svp.train.reproduce.caches import Caches
from svp.train.reproduce.commands import row_commands
from svp.train.reproduce.paper_tables import EXPERIMENTS, OURS, experiment
from svp.train.reproduce.request import ReproduceRequest, data_of


def invoke(*words: str) -> Any:
    return CliRunner().invoke(main, ["reproduce", *words])


@functools.cache
def told(*words: str) -> dict[str, Any]:
    found = invoke(*words, "--plan", "--json")
    assert found.exit_code == 0, found.output
    value: dict[str, Any] = json.loads(found.stdout)
    return value


def parsed(line: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a printed command; anything the command does not know is an error."""
    words = shlex.split(line)
    start = words.index("svp")
    name, rest = words[start + 1], words[start + 2 :]
    command = main.get_command(click.Context(main), name)
    if isinstance(command, click.Group):
        name, rest = rest[0], rest[1:]
        command = command.get_command(click.Context(command), name)
    assert command is not None, line
    context = command.make_context(name, rest)
    return name, context.params


def test_paper_size_names_its_price_and_refuses() -> None:
    """Exit code 2 without data and weights, 0 if only the plan was asked for."""
    words = ["table1", "--size", "paper", "--row", "SVP", "--row", "MLP, all patches",
             "--seeds", "2"]  # fmt: skip
    refused = invoke(*words, "--json")
    assert refused.exit_code == 2, refused.output
    found = json.loads(refused.stdout)
    assert any("--root" in line for line in found["missing"])
    assert any("--init" in line for line in found["missing"])
    svp, mlp = found["rows"]
    assert (svp["tokens"], mlp["tokens"]) == (40, 576)
    # 5,250 steps of 160 sequences of 168 tokens, 6.5 G weights: some tens of hours on an H100.
    assert 2.5 < mlp["hours"] / svp["hours"] < 5 and 1 < svp["hours"] < 100
    assert all(14e9 < row["memory"] < 80 * 2**30 and row["fits"] for row in (svp, mlp))
    assert found["gpu_hours"]["training"] == pytest.approx(2 * (svp["hours"] + mlp["hours"]))
    assert svp["commands"][0].startswith("svp train --size paper --from-cache")
    # 55,885 photographs at most with 2.1 MB of SAM embedding and 1.2 MB of features each.
    assert 150e9 < found["disk"] < 250e9
    assert invoke(*words, "--dry-run", "--json").stdout == refused.stdout


@pytest.mark.parametrize("key", [*EXPERIMENTS, "all"])
def test_what_a_plan_reads_it_makes(key: str) -> None:
    """Every cache is made once before it is read; every run is read by its own evaluations."""
    plan = told(key, "--size", "paper", "--seeds", "2")
    made: list[Path] = []
    for line in (cache["command"] for cache in plan["caches"]):
        name, options = parsed(line)
        assert name == "precompute" and options["purpose"] == "train"
        made.append(options["out"])
    assert len(set(made)) == len(made)
    evaluated: dict[Any, list[tuple[str, str]]] = defaultdict(list)
    results: list[Path] = []
    trained: set[Path] = set()
    ordered: set[Path] = set()
    for row in plan["rows"]:
        if row["not_run"] or row["same_as"]:
            continue
        seeds: dict[Path, int] = {}
        for name, options in map(parsed, row["commands"]):
            if name == "order":
                assert options["path"] in made
                assert ordered >= {options["prior"]} - {None}, "the prior of a cache with one"
                ordered.add(options["path"])
                continue
            assert set(options["caches"]) <= set(made), row["name"]
            assert ordered >= set(options["caches"]) or not options["budget"], row["name"]
            if name == "train":
                assert options["runs"] not in trained and not row["trained_by"]
                trained.add(options["runs"])
                seeds[options["runs"]] = options["seed"]
                continue
            assert name == "eval"
            mine = trained if row["trained_by"] else seeds
            assert (options["runs"] in mine) != bool(options["published"]), row["name"]
            assert bool(row["tokens"]) == (options["published"] is None)
            splits = options["split"].split(",")
            assert len(options["caches"]) == len(splits)
            evaluated[
                options["published"] or options["runs"], options["overrides"], options["budget"]
            ] += [(options["dataset"], split) for split in splits]
            results += [options["out"].with_name(f"{options['out'].stem}-{s}") for s in splits]
        if row["tokens"] and not row["trained_by"]:
            assert sorted(seeds.values()) == [0, 1], row["name"]
    assert len(set(results)) == len(results)
    assert all(len(set(splits)) == len(splits) == 8 for splits in evaluated.values())


def test_glamm_is_evaluated_as_published() -> None:
    """Table 3's first row: no training, CLIP's own preprocessing, the folder that was named."""
    plan = told(
        "table3", "--size", "paper", "--row", "GLaMM", "--published", "hub:MBZUAI/GLaMM-RefSeg"
    )
    (row,) = plan["rows"]
    assert (row["tokens"], row["hours"]) == (0, 0)
    assert len(plan["caches"]) == 8 and "features.view=clip" in plan["caches"][0]["command"]
    for name, options in map(parsed, row["commands"]):
        assert (name, options["published"]) == ("eval", "hub:MBZUAI/GLaMM-RefSeg")
    assert plan["gpu_hours"]["training"] == 0
    assert any("GLaMM-RefSeg" in line for line in plan["missing"])


def test_the_plan_is_what_the_run_would_make() -> None:
    """Folders need no weights, no data and no root to be named."""
    here = ReproduceRequest(
        table="table1", size="paper", root=Path("DATA"), init="GLaMM-GranD-Pretrained"
    )
    plan = told("table1", "--size", "paper")
    caches, data = Caches(here, data_of(here)), data_of(here)
    for row, found in zip(experiment("table1", "paper").rows, plan["rows"], strict=True):
        assert list(row_commands(here, data, row, caches)) == found["commands"]


def test_the_lines_are_a_shell_script() -> None:
    lines = invoke("table7", "--size", "paper", "--plan").output.splitlines()
    for line in lines:
        assert line.startswith(("# ", "svp ")), line
        if line.startswith("svp "):
            parsed(line)


def test_one_gpu_for_several_processes_is_refused_before_the_plan() -> None:
    ReproduceRequest(table="tableC", size="paper", device="cuda:1", processes=1)
    with pytest.raises(ConfigError, match="--device cuda:1 with 4 processes: .*--device cuda,"):
        ReproduceRequest(table="tableC", size="paper", device="cuda:1", processes=4)


def test_how_it_is_run_is_the_users() -> None:
    """In caches, in training and in evaluation, printed and real."""
    words = ["--size", "paper", "--device", "cuda", "--mode", "fast", "--dtype", "bfloat16",
             "--executor", "ray", "--ray-address", "auto", "--workers", "3", "--threads", "2",
             "--processes", "4", "--protocol", "glamm", "--init", "hub:A/B", "--seeds", "1"]  # fmt: skip
    plan = told("tableC", *words)
    for cache in plan["caches"]:
        _, options = parsed(cache["command"])
        assert (options["mode"], options["dtype"], options["device"]) == (
            "fast", "bfloat16", "cuda",
        )  # fmt: skip
        assert (options["executor"], options["ray_address"]) == ("ray", "auto")
        assert (options["workers"], options["threads"]) == ("3", 2)
    for line in plan["rows"][0]["commands"]:
        assert line.startswith("accelerate launch --num_processes 4 -m svp ")
        _, options = parsed(line)
        assert options["device"] == "cuda" and options["init"] == "hub:A/B"
        assert options.get("protocol", "glamm") == "glamm"
    plain = told("tableC", "--size", "paper")
    assert not {c["command"].split()[-1] for c in plain["caches"]} & {
        c["command"].split()[-1] for c in plan["caches"]
    }, "a cache of another precision has another name"
    request = ReproduceRequest(
        table="table1", size="paper", device="cuda:1", executor="ray", mode="fast",
        dtype="bfloat16", workers=3, threads=2, ray_address="auto",
    )  # fmt: skip
    precompute_request = Caches(request, data_of(request)).precompute_request(
        experiment("table1", "paper").rows[0], "refcoco", "val"
    )
    options = precompute_request.run
    assert (precompute_request.run.executor, options.device, options.workers) == (
        "ray",
        "cuda:1",
        3,
    )
    assert (options.threads, options.ray_address) == (2, "auto")
    assert (precompute_request.flags.mode, precompute_request.flags.dtype) == ("fast", "bfloat16")
    assert ReproduceRequest(table="table1").run_options.workers is None, (
        "one per GPU, else one per core"
    )


def test_hours_follow_the_recipe_and_the_gpu() -> None:
    def hours(*words: str, row: str = "SVP") -> tuple[float, float, float]:
        plan = told("table1", "--size", "paper", "--row", row, "--seeds", "1", *words)
        (found,) = plan["rows"]
        return found["hours"], found["memory"], plan["gpu_hours"]["precompute"]

    two = ("--set", "run.micro_batch=2")
    again = ("--set", "run.gradient_checkpointing=true")
    base, memory, cut = hours(*two, *again)
    many, more, _ = hours("--set", "run.micro_batch=8", *again)
    plain, most, _ = hours(*two, "--set", "run.gradient_checkpointing=false")
    auto, used, _ = hours()
    assert auto < min(many, plain) and more < used < 0.9 * 80 * 2**30, "the fastest that fits"
    assert hours("--gpu", "3090")[1] < 24 * 2**30
    assert many < base and more > memory, "weights are read less often, more is kept"
    assert plain < base and most > memory, "no second forward pass, more is kept"
    fast = hours(*two, *again, "--mode", "fast", "--dtype", "bfloat16")
    assert fast[0] == base and fast[2] < cut / 3
    assert hours(*two, *again, "--set", "stages.1.steps=3500")[0] == pytest.approx(
        base * 7000 / 5250
    )
    slow = hours(*two, *again, "--gpu", "3090")
    assert slow[0] > 5 * base and slow[2] > 2 * cut
    ordered = [hours(*two, *again, "--gpu", gpu)[0] for gpu in GPU_NAMES]
    assert ordered == sorted(ordered, reverse=True) and tuple(GPUS) == GPU_NAMES
    # PVTC's 590 M matrices at 36 tokens and more are above what DeCo's 21 M do at as many tokens.
    assert hours(*two, *again, row="PVTC")[0] > 1.02 * hours(*two, *again, row="DeCo")[0]
    assert hours(*two, *again, "--processes", "4")[1] > memory, "buckets of the gradients"


def test_processes_that_cannot_share_the_batch_are_refused() -> None:
    for words, match in [
        (("--processes", "3"), "global_batch 160 cannot be divided over 3 processes"),
        (("--set", "run.micro_batch=3"), "use a micro_batch that divides 160"),
    ]:
        result = invoke("tableC", "--size", "paper", "--plan", *words)
        assert result.exit_code == 2 and match in result.stderr


def test_a_row_that_does_not_fit_says_so() -> None:
    plan = told("table1", "--size", "paper", "--gpu", "3090")
    assert [row["name"] for row in plan["rows"] if not row["fits"]] == ["PVTC"]
    lines = invoke("table1", "--size", "paper", "--gpu", "3090", "--plan", "--row", "PVTC").output
    assert "does not fit RTX 3090" in lines
    assert all(row["fits"] for row in told("table1", "--size", "paper")["rows"])


def test_all_tables_count_shared_work_once() -> None:
    every = told("all", "--size", "paper", "--seeds", "2")
    single = [
        told(key, "--size", "paper", "--seeds", "2") for key in EXPERIMENTS if key not in OURS
    ]
    runs = {line for plan in single for row in plan["rows"] for line in row["commands"]}
    caches = {cache["command"] for plan in single for cache in plan["caches"]}
    own = [row for row in every["rows"] if not row["not_run"] and not row["same_as"]]
    assert {line for row in own for line in row["commands"]} == runs
    assert {cache["command"] for cache in every["caches"]} == caches
    assert every["gpu_hours"]["training"] == pytest.approx(2 * sum(row["hours"] for row in own))
    assert every["gpu_hours"]["training"] < sum(p["gpu_hours"]["training"] for p in single)
    assert sum(not row["not_run"] for row in every["rows"]) > len(own)
    refused = invoke("all", "--size", "paper")
    assert refused.exit_code == 2 and "--plan" in refused.output


def test_a_model_of_7b_is_read_once_not_for_every_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def again(lm: object) -> tuple[int, int]:
        raise AssertionError("its thousand tensors are read again")

    words = ("table5", "--size", "paper", "--plan")
    first = invoke(*words)
    monkeypatch.setattr("svp.train.estimates.flops.matrices", again)
    assert first.exit_code == 0 and invoke(*words).output == first.output


def test_finer_superpixels_are_priced_at_their_tokens() -> None:
    rows = {row["name"]: row for row in told("tableC", "--size", "paper")["rows"]}
    finer = rows["Finer semantic superpixels, 2x2 windows"]
    sam = rows["Semantic superpixel w/ SAM"]
    assert (finer["tokens"], sam["tokens"]) == (160, 40)
    assert finer["hours"] > 1.5 * sam["hours"]


def test_several_processes_are_started_by_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="--processes 2"):
        ReproduceRequest(table="table1")
    monkeypatch.delenv("WORLD_SIZE")
    refused = invoke("table1", "--rows", "all", "--row", "SVP")
    assert refused.exit_code == 2 and "exclude each other" in refused.output
    refused = invoke("table1", "--size", "paper", "--plan", "--row", "svp")
    assert refused.exit_code == 2 and "'SVP'" in refused.output
    refused = invoke("table1", "--size", "paper", "--plan", "--dtype", "bfloat16")
    assert refused.exit_code == 2 and "mode=fast" in refused.output
