"""Blocks run in a real shell; each `svp` in them is a forked child; failures name their line."""

from pathlib import Path

import pytest

from svp.cli import main
from svp.pipeline.errors import ConfigError, MissingError
from svp.train.rehearse.run import rehearse
from svp.train.rehearse.walk import Step, walk


def test_commands_run_in_order_and_a_failure_names_its_line(tmp_path: Path) -> None:
    script = "\n\nsvp --version >version.txt\nfor n in a b; do svp --version; done\nsvp \\\n  bogus\ntouch no\n"
    good = Step("good", "cd .; grep -q svp version.txt && svp --version")
    outcomes = walk([[Step("README.md:3", script, "README.md"), good]], tmp_path, {}, main)
    assert [o.code for o in outcomes] == [2, 0]
    failure = outcomes[0].failure.splitlines()
    assert failure[0].startswith("README.md:5: svp bogus: exit code 2")
    assert any("No such command 'bogus'" in line for line in failure)
    assert [(place, code) for place, _, code, _ in outcomes[0].commands] == [
        ("README.md:3", 0), ("README.md:4", 0), ("README.md:4", 0), ("README.md:5", 2),
    ]  # fmt: skip
    assert not (tmp_path / "no").exists(), "bash -e: nothing runs after a failure"


def test_a_killed_command_is_gone_and_a_bug_is_seen(tmp_path: Path) -> None:
    step = Step(
        "kill", "svp data synth s --images 100000 & p=$!\nsleep 1\nkill -9 $p\nwait $p || true"
    )
    (outcome,) = walk([[step]], tmp_path, {}, main)
    assert outcome.code == 0
    assert not (tmp_path / "s" / "digest.json").exists()


def test_lanes_run_at_once_and_keep_their_commands(tmp_path: Path) -> None:
    one = Step("one", "svp --version; until test -e two; do sleep 0.1; done; svp --version")
    two = Step("two", "sleep 0.2; touch two; svp --help >/dev/null")
    outcomes = {o.step.name: o for o in walk([[one], [two]], tmp_path, {}, main)}
    assert [text for _, text, _, _ in outcomes["one"].commands] == ["svp --version"] * 2
    assert [text for _, text, _, _ in outcomes["two"].commands] == ["svp --help"]


def test_chains_that_wait_begin_when_the_first_has_ended_and_beside_the_free_ones(
    tmp_path: Path,
) -> None:
    first = [Step("one", "until test -e beside; do sleep 0.1; done"), Step("two", "touch made")]
    free = Step("free", "touch beside; until test -e late; do sleep 0.1; done")
    late = Step("late", "test -e made; touch late")
    outcomes = walk([first, [free], [late]], tmp_path, {}, main, at_once=3, free=2)
    assert {o.step.name: o.failure for o in outcomes} == dict.fromkeys(
        ("one", "two", "free", "late"), ""
    )


def test_it_needs_a_checkout(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="checkout"):
        rehearse(tmp_path / "x", full=False, keep=False, only=(), main=main, root=tmp_path)


def test_only_names_a_block_and_out_is_never_a_strangers_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="README"):
        rehearse(tmp_path / "x", full=False, keep=False, only=("nowhere",), main=main)
    (tmp_path / "mine").write_text("")
    with pytest.raises(ConfigError, match="not empty"):
        rehearse(tmp_path, full=False, keep=False, only=("README",), main=main)
