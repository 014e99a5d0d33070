"""`svp export --space`: the folder alone shows the demo of its model."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from support.commands import svp
from support.micro_export import SVP, make
from svp.pipeline.errors import ConfigError
from svp.train.runs import export
from svp.train.runs.export import ExportRequest, export_command

pytest.importorskip("gradio", reason="pip install 'svp[demo]'")


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("space")
    make(root, SVP)
    request = ExportRequest(
        out=root / "out",
        checkpoint=root / "runs" / "run",
        cache=root / "cache",
        space=True,
        licence="mit",
    )
    files = export_command(request).files
    assert {"app.py", "README.md", "requirements.txt", "model/config.json", "svp/"} <= set(files)
    return root / "out"


def test_the_files_are_what_the_hub_reads(space: Path) -> None:
    header = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert (header["sdk"], header["app_file"], header["license"]) == ("gradio", "app.py", "mit")
    assert re.fullmatch(r"\d+\.\d+\.\d+", header["sdk_version"]) and header["title"] == "out"
    asked = {Requirement(line).name for line in (space / "requirements.txt").read_text().split()}
    assert {"gradio", "torch", "transformers", "peft"} <= asked and not asked & {
        "svp",
        "ray",
        "pytest",
    }
    show = [sys.executable, "-B", "-c", "import svp; print(svp.__file__)"]
    own = subprocess.check_output(show, cwd=space, text=True).strip()
    assert Path(own) == space / "svp" / "__init__.py"
    assert not [*space.rglob("__pycache__"), *space.glob("svp/tests")]


def test_its_program_answers_on_this_machine(space: Path, tmp_path: Path) -> None:
    """With the folder's own copy of the package, from another place."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = {k: v for k, v in os.environ.items() if not k.startswith(("GRADIO", "SVP"))}
    log = tmp_path / "log"
    with log.open("w") as written:
        app = subprocess.Popen(
            [sys.executable, str(space / "app.py")], cwd=tmp_path, stdout=written, stderr=written,
            env=known | {"GRADIO_SERVER_PORT": str(port)},
        )  # fmt: skip
    try:
        address, end = f"http://127.0.0.1:{port}/", time.monotonic() + 200
        while True:
            assert app.poll() is None and time.monotonic() < end, log.read_text()
            try:
                page = urllib.request.urlopen(address, timeout=5).read().decode()
                break
            except OSError:
                time.sleep(0.2)
        assert "svp: visual words" in page
        config = json.loads(urllib.request.urlopen(f"{address}config").read())
        assert any("tiny model answers here" in str(part) for part in config["components"])
    finally:
        app.terminate()  # SIGINT is ignored where the tests run in a shell's background
        app.wait(120)


def test_a_space_is_made_of_an_export_and_of_nothing_that_is_there(
    space: Path, tmp_path: Path
) -> None:
    again = str(tmp_path / "again")
    svp("export", again, "--checkpoint", str(space / "model"), "--space", "--license", "mit")
    for name in ("app.py", "requirements.txt", "model/model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (space / name).read_bytes()
    for out, space_too, why in (
        (space, True, "exists already"),
        (tmp_path / "x", False, "is an export"),
    ):
        with pytest.raises(ConfigError, match=why):
            export_command(ExportRequest(out=out, checkpoint=space / "model", space=space_too))


def test_a_space_is_pushed_as_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    class Hub:
        def __init__(self, **_: object) -> None: ...

        def create_repo(self, name: str, **options: object) -> str:
            calls.append((name, options))
            return f"https://hub/spaces/{name}"

        def upload_folder(self, **options: object) -> None:
            calls.append(("", options))

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert export._push(tmp_path, "me/space", True) == "https://hub/spaces/me/space"
    made, sent = calls
    assert made[1] == {
        "private": True, "exist_ok": True, "repo_type": "space", "space_sdk": "gradio",
    }  # fmt: skip
    assert sent[1] == {"repo_id": "me/space", "folder_path": tmp_path, "repo_type": "space"}
