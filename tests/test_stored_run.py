"""Cache, training and evaluation on an object store: the numbers of the same run on a folder."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from support.object_server import ObjectServer, point_to
from svp.cli import main
from svp.pipeline.cache.reader import CacheReader
from svp.pipeline.datasets.scenes import write_scenes
from svp.pipeline.store import open_folder, open_store

ADDRESS = "s3://tests/caches"


def svp(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("stored") / "scenes", images=10, seed=0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.timeout(300)
def test_a_run_on_a_bucket_has_the_numbers_of_one_on_a_folder(
    scenes: Path, here: Path, moto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to(monkeypatch, moto)
    made = {"there": ADDRESS, "here": here / "caches"}
    for split in ("train", "val"):
        for place in made.values():
            svp(
                "precompute", "--size", "tiny", "--superpixels", "slic", "--dataset", scenes,
                "--split", split, "--out", f"{place}/{split}", "--workers", 0, "--quiet",
                "--device", "cpu",
            )  # fmt: skip
        stored, local = open_store(f"{ADDRESS}/{split}"), open_folder(here / "caches" / split)
        ours = {key: stored.digest(key) for key, _ in stored.sizes() if key[:5] != "logs/"}
        assert ours == {key: local.digest(key) for key, _ in local.sizes() if key[:5] != "logs/"}
    losses, results = {}, {}
    for name, place in made.items():
        svp(
            "train", "--size", "tiny", "--from-cache", f"{place}/train", "--steps", 2, "--runs", name,
            "--device", "cpu", "--set", "model.warm_projector=false",
        )  # fmt: skip
        (run,) = Path(name).iterdir()
        timed = ("time", "seconds", "images_per_s", "wait_s")
        losses[name] = [
            {key: value for key, value in line.items() if not key.startswith(timed)}
            for line in lines(next(run.glob("metrics*.jsonl")))
        ]
        svp(
            "eval",
            "--from-cache",
            f"{place}/val",
            "--checkpoint",
            run,
            "--limit",
            3,
            "--device",
            "cpu",
        )
        results[name] = lines(next((run / "eval").glob("*.jsonl")))[1:]
    assert losses["there"] == losses["here"] and losses["there"]
    assert results["there"] == results["here"] and results["there"]
    # The run remembers the address: what reads its data later finds it.
    assert f"{ADDRESS}/train" in next(Path("there").glob("*/data.json")).read_text()
    # A copy of the bucket is a cache as any.
    svp("cache", "copy", f"{ADDRESS}/val", "--out", "copy")
    assert CacheReader("copy").plan == CacheReader(here / "caches/val").plan
    svp("cache", "verify", f"{ADDRESS}/train")
    shutil.rmtree(here / "caches")


@pytest.mark.timeout(600)
def test_a_run_with_a_tier_has_the_same_numbers_and_the_next_fetches_no_row(
    scenes: Path, here: Path, bucket: ObjectServer
) -> None:
    for split in ("train", "val"):
        svp(
            "precompute", "--size", "tiny", "--superpixels", "slic", "--dataset", scenes, "--split",
            split, "--out", f"{ADDRESS}/{split}", "--workers", 0, "--quiet", "--device", "cpu",
        )  # fmt: skip
    tier = ["--tier", here / "tier", "--tier-size", "1GB"]
    losses, told = [], []
    for number in range(2):
        out = svp(
            "train", "--size", "tiny", "--steps", 2, "--device", "cpu", "--runs", f"runs{number}",
            "--from-cache", f"{ADDRESS}/train", "--validate", f"{ADDRESS}/val", *tier,
            "--set", "model.warm_projector=false",
        )  # fmt: skip
        (run,) = Path(f"runs{number}").iterdir()
        losses.append([line["loss"] for line in lines(run / "metrics.jsonl") if "loss" in line])
        told += re.findall(r"tier \S+: (\S+) of (\S+) reads", out)
    small = CliRunner().invoke(
        main, ["train", "--dry-run", "--size", "tiny", "--device", "cpu", "--from-cache",
               f"{ADDRESS}/train", "--tier", "small", "--tier-size", "1kB"],
    )  # fmt: skip
    assert small.exit_code == 2 and "--tier-size 1.0 kB holds less than a batch" in small.output
    assert losses[0] == losses[1] != []
    (before, _), (served, every) = told
    assert before != every and served == every != "0"
    # The held-out images were kept, too.
    out = svp("eval", "--from-cache", f"{ADDRESS}/val", "--checkpoint", run, "--limit", 1,
              "--device", "cpu", "--no-bounds", *tier)  # fmt: skip
    assert re.search(r"tier \S+: [1-9]\S* of \S+ reads", out)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--tier", "t"], "--tier and --tier-size belong together"),
        (["--tier-size", "1GB"], "--tier and --tier-size belong together"),
        (["--tier", "t", "--tier-size", "much"], "tier size much: give bytes, such as 500GB"),
        (
            ["--tier", "s3://b/t", "--tier-size", "1GB"],
            "tier s3://b/t: give a folder of this machine",
        ),
        (["--tier", "file", "--tier-size", "1GB"], "is no folder"),
        (["--tier", "cache/in", "--tier-size", "1GB"], "lies in the cache"),
        (["--tier", "t", "--tier-size", "1GB"], "is a folder of this machine: leave --tier out"),
        (["--tier", "t", "--tier-size", "1GB", "--live"], "no stored row is read here"),
    ],
)
def test_a_tier_that_is_not_needed_or_none_is_refused(
    words: list[str], why: str, here: Path
) -> None:
    Path("cache").mkdir()
    for name in ("cache/plan.json", "file"):
        Path(name).write_text("{}")
    found = CliRunner().invoke(main, ["train", "--from-cache", "cache", *words])
    assert found.exit_code == 2, found.output
    assert why in " ".join(found.output.split()), found.output
    assert not Path("t").exists()


def test_a_service_that_fails_ends_a_run_clearly_and_the_next_finishes_it(
    scenes: Path, here: Path, bucket: ObjectServer
) -> None:
    words = ["precompute", "--size", "tiny", "--superpixels", "slic", "--dataset", str(scenes),
             "--split", "val", "--out", f"{ADDRESS}/val", "--workers", "0", "--quiet"]  # fmt: skip
    bucket.set(refuse="ExpiredToken")
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 1 and "ExpiredToken" in found.output.replace(
        "expired", "ExpiredToken"
    )
    bucket.set(error_rate=0.2, cut_rate=0.1, lost_rate=0.1, seed=3)
    svp(*words)
    bucket.set()
    assert "0 damaged, complete" in svp("cache", "verify", f"{ADDRESS}/val")
