"""The wheel in an empty environment, in an empty folder: what someone has who installs it.

    PYTHONPATH=tests python -m support.alone --python python3.12 --quickstart

`svp quickstart` runs on few scenes and steps, with --quickstart as a whole.

Every package comes from the registry in its newest version, not from constraints.txt, so this
also finds a release of a dependency with which svp fails. About 3 GB are downloaded.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from support import ROOT

SCENE = "tiny-scenes/images/testA_000000.png"
EXPRESSION = "yellow disc"


def build(folder: Path) -> Path:
    """The wheel of this checkout, built in `folder`."""
    command = [sys.executable, "-m", "build", "-q", "--wheel", "-o", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def install(wheel: Path, extras: str, python: str, folder: Path) -> Path:
    """`svp` of an environment that holds `wheel`, its `extras` and what they need, nothing else."""
    named = f"svp[{extras}] @ {wheel.as_uri()}" if extras else f"svp @ {wheel.as_uri()}"
    inside = folder / "bin" / "python"
    if uv := shutil.which("uv"):
        subprocess.run([uv, "venv", "-q", "--python", python, str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", str(inside), named], check=True)
    else:
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(inside), "-m", "pip", "install", "-q", named], check=True)
    return folder / "bin" / "svp"


class Alone:
    """Commands of an installed `svp` in an empty folder, without any setting of this process."""

    def __init__(self, svp: Path, folder: Path) -> None:
        self.svp, self.folder = svp, folder
        own = ("SVP_", "PYTHON", "VIRTUAL_ENV")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(own)}
        folder.mkdir(parents=True)

    def run(self, *words: str) -> str:
        """What a command prints; raises if it fails."""
        click.echo(f"svp {' '.join(words)}", err=True)
        found = subprocess.run(
            [str(self.svp), *words], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        return found.stdout

    def predicts(self) -> None:
        """A mask of a generated scene."""
        self.run("data", "synth", "tiny-scenes", "--images", "20")
        words = ("predict", SCENE, EXPRESSION, "--checkpoint", "tiny", "--json")
        report = json.loads(self.run(*words))
        (found,) = report["predictions"]
        assert found["area"] > 0 and 1 < report["tokens"] < 256, report
        assert all((self.folder / file).is_file() for file in report["files"]), report

    def trains(self) -> None:
        """`svp quickstart` from generated scenes to the evaluation, with few scenes and steps."""
        few = self.folder / "few.yaml"
        few.write_text("folder: .\nscenes: 16\nsteps: 4\nin_process: true\n")
        self.env["SVP_REHEARSAL"] = str(few)
        try:
            report = json.loads(self.run("quickstart", "--runs", "few", "--json"))
        finally:
            del self.env["SVP_REHEARSAL"]
            for made in ("data", "caches"):
                shutil.rmtree(self.folder / made)
        assert report["train"]["steps"] > 0 and report["eval"]["splits"], report

    def demonstrates(self) -> None:
        """An answer of `svp demo`, asked for as its page in a browser asks."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [str(self.svp), "demo", "--model", "tiny", "--size", "tiny", "--port", str(port)]
        click.echo(" ".join(["svp", *command[1:]]), err=True)
        with started(command, self.folder, self.env) as process:
            address = f"http://127.0.0.1:{port}/"
            config = json.loads(wait_for(f"{address}config", process))
            words = ask(address, config, self.folder / SCENE, EXPRESSION)
        assert "visual tokens" in words and "pixels" in words, words


@contextmanager
def started(
    command: Sequence[str], folder: Path, env: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """A running command, ended on leaving."""
    process = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def wait_for(address: str, process: "subprocess.Popen[bytes]", seconds: float = 900) -> bytes:
    """The body of a page once it is served."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=60) as found:
                body: bytes = found.read()
                return body
        except (urllib.error.URLError, TimeoutError):
            time.sleep(1)
    raise AssertionError(f"{address}: not served, exit code {process.poll()}")


def ask(address: str, config: dict[str, Any], photo: Path, expression: str) -> str:
    """The text beside the mask that the demo's page shows for an expression.

    As a browser does: a photograph that changes is looked at first, which sets the budget's slider.
    """
    api = f"{address.rstrip('/')}{config.get('api_prefix', '')}"
    (path,) = json.loads(_post(f"{api}/upload", *_form(photo)))
    file = {"path": path, "orig_name": photo.name, "meta": {"_type": "gradio.FileData"}}
    events = {part["targets"][0][1]: part for part in config["dependencies"] if part["targets"]}
    session = uuid.uuid4().hex
    looked = _event(api, session, events["change"], [file])
    values = dict(zip(events["change"]["outputs"], looked, strict=True))
    known: list[Any] = [file, expression, False]
    for component in events["submit"]["inputs"][len(known) :]:
        set_to = values.get(component)
        known.append(set_to.get("value") if isinstance(set_to, dict) else set_to)
    return str(_event(api, session, events["submit"], known)[1])


def _event(api: str, session: str, event: dict[str, Any], data: list[Any]) -> list[Any]:
    """What one event of the page gives for its inputs, in one visitor's session."""
    sent = {"data": data, "fn_index": event["id"], "session_hash": session}
    _post(f"{api}/queue/join", json.dumps(sent).encode(), "application/json")
    address = f"{api}/queue/data?session_hash={session}"
    with urllib.request.urlopen(address, timeout=900) as lines:
        for line in lines:
            told = json.loads(line.removeprefix(b"data:")) if line.startswith(b"data:") else {}
            if told.get("msg") == "process_completed":
                assert told["success"], told
                given: list[Any] = told["output"]["data"]
                return given
    raise AssertionError("the demo closed the stream without an answer")


def _form(photo: Path) -> tuple[bytes, str]:
    """A form with one file, and its content type."""
    edge = uuid.uuid4().hex
    head = (
        f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="{photo.name}"\r\n'
        "Content-Type: image/png\r\n\r\n"
    )
    return (
        head.encode() + photo.read_bytes() + f"\r\n--{edge}--\r\n".encode(),
        f"multipart/form-data; boundary={edge}",
    )


def _post(address: str, body: bytes, kind: str) -> bytes:
    request = urllib.request.Request(address, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=300) as found:
        read: bytes = found.read()
        return read


@click.command()
@click.option("--python", "pythons", multiple=True, default=(sys.executable,), show_default=True)
@click.option("--extras", default="demo,train", show_default=True)
@click.option(
    "--quickstart", is_flag=True, help="Also run the whole svp quickstart (10 to 20 minutes)."
)
def main(pythons: Sequence[str], extras: str, quickstart: bool) -> None:
    """Build the wheel, install it alone for each Python, and run the first commands of README.md."""
    with tempfile.TemporaryDirectory(prefix="svp-alone-") as made:
        wheel = build(Path(made))
        for number, python in enumerate(pythons):
            here = Path(made) / str(number)
            alone = Alone(install(wheel, extras, python, here / "venv"), here / "empty")
            click.echo(alone.run("--version").strip())
            alone.predicts()
            if "demo" in extras.split(","):
                alone.demonstrates()
            if "train" in extras.split(","):
                alone.trains()
            if quickstart:
                alone.run("quickstart")
            click.echo(f"{python}: passed")
        for tool in ("uvx", "pipx"):
            if shutil.which(tool):
                ways = {"uvx": ["--from", str(wheel)], "pipx": ["run", "--spec", str(wheel)]}
                words = [tool, *ways[tool], "svp", "--version"]
                subprocess.run(words, cwd=made, check=True)
                click.echo(f"{tool}: passed")


if __name__ == "__main__":
    main()
