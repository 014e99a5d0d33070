"""Runs at an address: the same files and promises as in a folder, whatever the service does."""

import logging
import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import micro_run
from support.fresh import FRESH
from support.object_server import KEY, SECRET, ObjectServer
from svp.pipeline.errors import CacheError, ConfigError, DataError, MissingError, NonFiniteError
from svp.pipeline.store import MemoryStore, ObjectStore, Store, as_place, open_store
from svp.train.trainer.checkpoint import OPTIMIZER, STATE, WEIGHTS, checkpoints
from svp.train.trainer.remote_run import RemoteRun, checkpoint_at, copy_of, runs_at
from svp.train.trainer.resume import named_checkpoint, open_same
from svp.train.trainer.run_folder import RunFolder

RECIPE = micro_run.micro_recipe(run={"checkpoint": 1, "keep": 2})


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`machine(name)` goes to another machine: the copies of this one are not there."""

    def go(name: str) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))

    go("one")
    return go


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """metrics.jsonl and checkpoints of a run in a folder that nothing stopped."""
    root = tmp_path_factory.mktemp("undisturbed") / "run"
    micro_run.run(root, RECIPE)
    files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return {k: v for k, v in files.items() if k == "metrics.jsonl" or k.startswith("checkpoints/")}


@pytest.fixture
def address(s3: ObjectServer) -> str:
    return f"s3://tests/{uuid.uuid4().hex}/run"


def there(store: Store) -> dict[str, bytes]:
    """What must be equal at an address: metrics and checkpoints."""
    keys = [key for key, _ in store.sizes()]
    kept = [key for key in keys if key == "metrics.jsonl" or key.startswith("checkpoints/")]
    return {key: store.read(key, 1 << 30) for key in kept}


@pytest.mark.parametrize("kind", ["memory", "served"])
def test_an_address_holds_what_a_folder_would(
    kind: str, request: pytest.FixtureRequest, undisturbed: dict[str, bytes]
) -> None:
    where = request.getfixturevalue("address") if kind == "served" else "memory://equal/run"
    store = open_store(where)
    report = micro_run.run(store, RECIPE)
    assert there(store) == undisturbed
    assert b"stage one: 4 steps" in store.read("log.txt", 10**6)
    assert report.address == where and f"run: {where}" in report.lines()
    assert f"checkpoint: {where}/checkpoints/step-00000007" in report.lines()
    # Nothing is left to do, and nothing is done.
    assert micro_run.run(store, RECIPE, resume=True).images == 0


def test_state_json_is_made_last_and_deleted_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []

    def recorded(method: str) -> Callable[..., Any]:
        plain = getattr(MemoryStore, method)

        def act(self: MemoryStore, key: str, *arguments: Any, **named: Any) -> Any:
            seen.append((method, key))
            return plain(self, key, *arguments, **named)

        return act

    for method in ("create", "delete", "replace"):
        monkeypatch.setattr(MemoryStore, method, recorded(method))
    micro_run.run(open_store("memory://order/run"), RECIPE)
    tensors = [WEIGHTS, OPTIMIZER]

    def files(method: str, step: int) -> list[str]:
        wanted = f"checkpoints/step-{step:08d}/"
        return [key.removeprefix(wanted) for m, key in seen if m == method and wanted in key]

    for step in range(1, 8):
        assert files("create", step) == [*tensors, STATE] and not files("replace", step)
    for step in (1, 2, 3, 5):
        assert files("delete", step)[0] == STATE and len(files("delete", step)) == 3
    # What another machine cuts at the checkpoint's step reaches as far.
    first = seen.index(("create", f"checkpoints/step-00000001/{WEIGHTS}"))
    assert ("replace", "metrics.jsonl") in seen[:first]


# A file at the address, and whether the process is killed before or after it is made or deleted.
SENDS = [(WEIGHTS, "create", True), (STATE, "create", True), (STATE, "delete", True), (WEIGHTS, "delete", True),
         ("metrics.jsonl", "replace", True)]  # fmt: skip


def killed_run(
    environment: dict[str, str], address: str, file: str, method: str, after: bool, at: int
) -> None:
    """A run that ends with SIGKILL at a request about `file`, once step `at` is being sent.

    environment  of the test: a forkserver that other tests started has theirs
    """
    os.environ |= environment
    plain, publish = getattr(ObjectStore, method), RemoteRun.publish
    sent = [0]

    def counted(self: RemoteRun, keep: int, hint: str | None = None) -> None:
        sent[0] += 1
        publish(self, keep, hint)

    def act(self: ObjectStore, key: str, *arguments: Any, **named: Any) -> Any:
        hit = sent[0] >= at and key.rpartition("/")[2] == file
        result = plain(self, key, *arguments, **named) if after or not hit else None
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    RemoteRun.publish = counted  # type: ignore[method-assign]
    setattr(ObjectStore, method, act)
    micro_run.run(open_store(address), RECIPE)


@pytest.mark.parametrize(("file", "method", "after"), SENDS)
def test_a_killed_run_goes_on_on_another_machine(
    file: str,
    method: str,
    after: bool,
    address: str,
    undisturbed: dict[str, bytes],
    machine: Callable[[str], None],
) -> None:
    store = open_store(address)
    process = FRESH.Process(
        target=killed_run, args=(dict(os.environ), address, file, method, after, 3)
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    machine("two")
    newest = checkpoint_at(store)
    assert newest.weights().keys() and newest.optimizer().keys()  # their digests hold
    whole = file != "metrics.jsonl" and ((file, after) == (STATE, True) or method == "delete")
    assert newest.state.step == (3 if whole else 2)
    report = micro_run.run(store, RECIPE, resume=True)
    assert report.images == (7 - newest.state.step) * RECIPE.global_batch
    assert there(store) == undisturbed


def test_passing_faults_change_nothing(
    address: str, s3: ObjectServer, undisturbed: dict[str, bytes], machine: Callable[[str], None]
) -> None:  # fmt: skip
    store = open_store(address)
    s3.set(error_rate=0.1, cut_rate=0.1, lost_rate=0.1, seed=5)
    with pytest.raises(CacheError, match="step 5 is lost"):
        micro_run.run(store, RECIPE, lose_at=5)
    machine("two")
    micro_run.run(store, RECIPE, resume=True)
    s3.set()
    assert there(store) == undisturbed


def refused_between(s3: ObjectServer, patch: pytest.MonkeyPatch, first: int, last: int) -> None:
    """The credentials have expired while steps `first` to `last` are taken."""
    plain = micro_run.MicroStream._batch

    def batch(self: micro_run.MicroStream, step: int, part: range) -> Any:
        if part.start == 0 and step in (first, last):
            s3.set(refuse="ExpiredToken" if step == first else "")
        return plain(self, step, part)

    patch.setattr(micro_run.MicroStream, "_batch", batch)


def test_credentials_that_expire_for_a_while_cost_nothing(
    address: str, s3: ObjectServer, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    refused_between(s3, monkeypatch, 2, 6)
    store = open_store(address)
    micro_run.run(store, RECIPE)
    assert "credentials have expired" in caplog.text and "the run goes on" in caplog.text
    assert there(store) == undisturbed


def test_credentials_that_stay_expired_leave_the_run_on_this_machine(
    address: str, s3: ObjectServer, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, machine: Callable[[str], None],
) -> None:  # fmt: skip
    """The error says where it is kept and how it is sent; that command sends it."""
    caplog.set_level(logging.DEBUG)
    refused_between(s3, monkeypatch, 3, 99)
    store = open_store(address)
    with pytest.raises(CacheError) as told:
        micro_run.run(store, RECIPE)
    text = str(told.value)
    assert "credentials have expired (ExpiredToken)" in text and f"again in {address}" in text
    assert str(copy_of(store)) in text
    assert KEY not in text + caplog.text and SECRET not in text + caplog.text
    assert [c.state.step for c in checkpoints(copy_of(store) / "checkpoints")] == [4, 6, 7]

    # What others read until then; sent in part, the rest is sent the next time.
    s3.set()
    assert checkpoint_at(store).state.step < 4
    part = RemoteRun(store)
    with monkeypatch.context() as patch, pytest.raises(CacheError, match="step 6"):
        patch.setattr(RemoteRun, "_create", failing_at(6, RemoteRun._create))
        part.send_unsent()
    assert (found := part.newest()) is not None and found.state.step == 4
    assert micro_run.run(store, RECIPE, resume=True).images == 0
    assert there(store) == undisturbed


def failing_at(step: int, plain: Callable[..., bool]) -> Callable[..., bool]:
    """`RemoteRun._create` that fails for the checkpoint of a step."""

    def create(self: RemoteRun, path: Path) -> bool:
        if path.parent.name.endswith(str(step)):
            raise CacheError(f"step {step}")
        return plain(self, path)

    return create


def test_another_process_that_trains_the_run_is_told(address: str) -> None:
    """Of two with unequal values the second is refused; the first one's checkpoint stays."""
    store = open_store(address)
    micro_run.run(store, RECIPE)
    own = RemoteRun(store)
    own.begin(7)
    state = own.folder / "checkpoints" / "step-00000007" / STATE
    state.write_bytes(state.read_bytes().replace(b'"skipped":0', b'"skipped":1'))
    own._sent.clear()  # a process that has come to step 7 by itself
    for send in (lambda: own.publish(2), lambda: own.publish(2, "again")):
        with pytest.raises(
            CacheError, match=r"state\.json: is there with other bytes, by .*process"
        ):
            send()
    assert checkpoint_at(store).state.skipped == 0


def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(
    address: str, undisturbed: dict[str, bytes], machine: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    store = open_store(address)
    micro_run.run(store, RECIPE)
    key = f"checkpoints/step-00000007/{WEIGHTS}"
    store.replace(key, store.read(key, 1 << 30)[:-1] + b"x")
    machine("two")
    with pytest.raises(Exception, match="damaged checkpoint: weights.safetensors"):
        RemoteRun(store).fetch("step-00000007")
    assert checkpoint_at(store).state.step == 6
    assert "the checkpoint before is taken" in caplog.text
    micro_run.run(store, RECIPE, resume=True)
    assert there(store) == undisturbed


def test_resuming_an_earlier_checkpoint_drops_the_later_ones(
    address: str, undisturbed: dict[str, bytes]
) -> None:
    store = open_store(address)
    micro_run.run(store, RECIPE)
    run = RemoteRun(store)
    found = named_checkpoint(as_place(f"{address}/checkpoints/step-00000004"))
    assert (found.state.step, found.name) == (4, f"{address}/checkpoints/step-00000004")
    assert open_same(found.name, 4, found.digest) == found
    run.begin(4)
    assert {key.split("/")[1] for key, _ in store.sizes("checkpoints")} == {"step-00000004"}
    micro_run.run(store, RECIPE, resume=True)
    assert there(store) == undisturbed


def test_a_copy_of_a_run_that_was_deleted_is_not_sent_again(address: str) -> None:
    store = open_store(address)
    micro_run.run(store, RECIPE)
    for key, _ in list(store.sizes()):
        store.delete(key)
    RemoteRun(store).send_unsent()
    assert list(store.sizes()) == []
    with pytest.raises(MissingError, match="neither a checkpoint nor a run with one in it"):
        checkpoint_at(store)


def test_a_name_that_is_taken_is_refused_and_its_run_stays() -> None:
    store = open_store("memory://taken")
    store.create("run/config.yaml", [b"name: other"])
    folder = RunFolder(copy_of(store) / "run", trackers=(), remote=RemoteRun(store.sub("run")))
    folder.path.mkdir(parents=True)
    (folder.path / "config.yaml").write_text("name: other")
    with (
        pytest.raises(ConfigError, match="exists and is not overwritten"),
        folder.unless_refused(new=True),
    ):
        assert folder.remote is not None
        folder.remote.claim()
    assert dict(store.sizes()) == {"run/config.yaml": 11}


def test_a_new_run_that_is_refused_leaves_nothing() -> None:
    store = open_store("memory://refused")
    folder = RunFolder(copy_of(store) / "run", trackers=(), remote=RemoteRun(store.sub("run")))
    folder.path.mkdir(parents=True)
    (folder.path / "config.yaml").write_text("name: mine")
    with pytest.raises(DataError), folder.unless_refused(new=True):
        assert folder.remote is not None
        folder.remote.claim()
        assert dict(store.sizes())
        raise DataError("a sentence is missing")
    assert not list(store.sizes()) and not folder.path.exists()


def test_the_log_of_a_run_that_fails_is_sent() -> None:
    store = open_store("memory://failed/run")
    with pytest.raises(NonFiniteError):
        micro_run.run(store, RECIPE, poison=2)
    assert "nonfinite-00000002.json" in dict(store.sizes())


def test_runs_are_listed_newest_first() -> None:
    store = open_store("memory://listed")
    for name in ("b-20260101-000000", "a-20260102-000000", "odd"):
        store.create(f"{name}/config.yaml", [b"x"])
    store.create("c-20260103-000000/eval/val-full-1.jsonl", [b"no run"])
    names = [run.store.where().rpartition("/")[2] for run in runs_at(store)]
    assert names == ["a-20260102-000000", "b-20260101-000000", "odd"]
    assert len(runs_at(store, "a-")) == 1


def test_results_that_cannot_be_sent_are_named(address: str, s3: ObjectServer) -> None:
    run = RemoteRun(open_store(address))
    path = run.folder / "eval" / "val-full-1.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    s3.set(refuse="ExpiredToken")
    with pytest.raises(CacheError, match="credentials have expired") as told:
        run.send_results(path)
    assert str(told.value).endswith(f"the results are in {path}")


def test_a_file_too_large_for_one_object_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from svp.train.trainer import remote_run

    monkeypatch.setattr(remote_run, "MAX_FILE", 1000)
    with pytest.raises(CacheError, match="one file at an address has at most 1.0 kB: give --runs"):
        micro_run.run(open_store("memory://large/run"), RECIPE)


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("svp.train.trainer.remote_run.user_cache", lambda: None)
    with pytest.raises(MissingError, match="set XDG_CACHE_HOME"):
        copy_of(open_store("memory://home"))
