"""The release workflow, the image and the package's metadata fit each other and the tree."""

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import svp

ROOT = Path(svp.__file__).parent
FLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RELEASE: dict[str, Any] = yaml.safe_load(
    (ROOT / ".github/workflows/release.yml").read_text("utf-8")
)
IMAGE = (ROOT / "Containerfile").read_text("utf-8")


def setup() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(ROOT / "setup.cfg", "utf-8")
    return found


def pythons() -> list[str]:
    """The versions that the metadata names."""
    listed = setup()["metadata"]["classifiers"]
    return re.findall(r"Programming Language :: Python :: (3\.\d+)", listed)


def steps(job: dict[str, Any]) -> str:
    return "\n".join(str(step.get("run", "")) for step in job["steps"])


@pytest.mark.parametrize("path", FLOWS, ids=lambda path: path.name)
def test_a_workflow_has_no_right_and_no_secret_that_it_does_not_name(path: Path) -> None:
    text = path.read_text("utf-8")
    flow: dict[str, Any] = yaml.safe_load(text)
    assert flow["permissions"] == {}
    assert "secrets." not in text and "pull_request_target" not in text
    for name, job in flow["jobs"].items():
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w.-]+/[\w./-]+@(v\d+|release/v1)", step["uses"]), name
            assert "${{" not in step.get("run", ""), "an expression in a script can run code"


def test_what_is_published_was_attested_and_tried() -> None:
    jobs = RELEASE["jobs"]
    assert jobs["build"]["permissions"]["attestations"] == "write"
    uses = [step.get("uses", "") for step in jobs["build"]["steps"]]
    order = [next(k for k, use in enumerate(uses) if name in use) for name in ("attest", "upload")]
    assert order == sorted(order)
    assert set(jobs["publish"]["needs"]) == {"build", "try"}
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "tag" in jobs["publish"]["if"] and jobs["publish"]["environment"]
    writers = [name for name, job in jobs.items() if "write" in str(job["permissions"])]
    assert writers == ["build", "publish", "notes"]


def test_every_python_that_is_named_is_tried() -> None:
    assert RELEASE["jobs"]["try"]["strategy"]["matrix"]["python"] == pythons()
    floor = setup()["options"]["python_requires"].removeprefix(">=")
    assert pythons()[0] == floor
    script = steps(RELEASE["jobs"]["try"])
    assert "pip install dist/*.whl" in script and "--checkpoint tiny" in script


def test_the_tag_is_compared_with_the_version() -> None:
    (line,) = [one for one in steps(RELEASE["jobs"]["build"]).splitlines() if "__version__" in one]
    pattern = re.search(r"sed -n 's/(.*)/\\1/p' __init__.py", line)
    assert pattern
    regular = pattern[1].replace(r"\(", "(").replace(r"\)", ")")
    found = [re.match(regular, text) for text in (ROOT / "__init__.py").read_text().splitlines()]
    assert [match[1] for match in found if match] == [svp.__version__]


def test_the_image_is_of_this_version_and_runs_svp_as_a_user() -> None:
    assert f"svp:{svp.__version__}" in IMAGE
    bases = re.findall(r"^FROM python:(3\.\d+)-slim", IMAGE, re.MULTILINE)
    assert len(bases) == 2 and set(bases) <= set(pythons())
    extras = re.search(r"^ARG EXTRAS=(.+)$", IMAGE, re.MULTILINE)
    assert extras and set(extras[1].split(",")) <= set(setup()["options.extras_require"])
    assert IMAGE.index("\nUSER svp") < IMAGE.index('\nENTRYPOINT ["svp"]')


def test_the_image_gets_what_the_wheel_is_built_from_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert lines[1] == "**"
    assert {name for name in kept if not (ROOT / name).exists()} == set()
    tops = {name.split(".")[1] for name in setup()["options"]["packages"].split() if "." in name}
    assert tops | {"workflows", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"} <= kept
