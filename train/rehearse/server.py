"""Fork server for `svp`: forked children of a process with all imports done.

Importing torch and transformers takes longer than most commands here. So a shim named `svp` hands
its words, folder, environment and open files to this process over a socket; a child forked from it
runs the command as a fresh process would, and the shim exits with its code. Invariant: nothing but
imports happens in the parent, so every child starts from the same state.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

SOCKET, LINE, STEP = "SVP_REHEARSE_SOCKET", "SVP_REHEARSE_LINE", "SVP_REHEARSE_STEP"
_SHIM = """#!{python} -SE
import json, os, socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(os.environ["SVP_REHEARSE_SOCKET"])
call = {{"words": sys.argv[1:], "folder": os.getcwd(), "env": dict(os.environ)}}
text = json.dumps(call).encode()
socket.send_fds(client, [len(text).to_bytes(4, "big")], [0, 1, 2])
client.sendall(text)
sys.exit(int(client.recv(8) or b"137"))
"""


@dataclass(frozen=True)
class Ran:
    """One command that was run: in which step, at which line of it (0 if that is not known)."""

    step: str
    line: int
    words: tuple[str, ...]
    code: int
    seconds: float


@dataclass
class _Call:
    client: socket.socket
    pid: int
    step: str
    line: int
    words: tuple[str, ...]
    start: float


class Server:
    """Answers shims while `serve` runs; `ran` lists what was run, in the order it ended."""

    def __init__(self, folder: Path, main: click.Command) -> None:
        """Make `folder`/bin/svp, the shim, and the socket beside it."""
        programs = folder / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        shim = programs / "svp"
        shim.write_text(_SHIM.format(python=sys.executable))
        shim.chmod(0o755)
        self.path = folder / "bin" / "client"
        self.path.unlink(missing_ok=True)
        self.ran: list[Ran] = []
        self._main = main
        self._calls: dict[int, _Call] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(16)
        self._watch = selectors.DefaultSelector()
        self._watch.register(self._listener, selectors.EVENT_READ)

    def environment(self) -> dict[str, str]:
        """Environment variables that make this server the shell's `svp`."""
        path = f"{self.path.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return {SOCKET: str(self.path), "PATH": path}

    def serve(self, until: Callable[[], bool]) -> None:
        """Run the requests of shims until `until()`, checked every 50 ms."""
        while not until():
            for key, _ in self._watch.select(0.05):
                if key.fileobj is self._listener:
                    self._take()
                else:
                    self._gone(key.data)
            self._reap()

    def close(self) -> None:
        """End what is still running."""
        for call in list(self._calls.values()):
            with suppress(ProcessLookupError):
                os.killpg(call.pid, signal.SIGKILL)
            os.waitpid(call.pid, 0)
        self._watch.close()
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _take(self) -> None:
        client, _ = self._listener.accept()
        size, files, _, _ = socket.recv_fds(client, 4, 3)
        text = b""
        while len(text) < int.from_bytes(size, "big"):
            text += client.recv(1 << 16)
        asked = json.loads(text)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _child(asked, files, self._main)
        for file in files:
            os.close(file)
        line, step = int(asked["env"].get(LINE) or 0), str(asked["env"].get(STEP, ""))
        self._calls[pid] = _Call(client, pid, step, line, tuple(asked["words"]), time.monotonic())
        self._watch.register(client, selectors.EVENT_READ, pid)

    def _gone(self, pid: int) -> None:
        """The shim is gone before its answer, killed: so is the command."""
        call = self._calls.get(pid)
        if call is not None:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            self._watch.unregister(call.client)

    def _reap(self) -> None:
        for call in list(self._calls.values()):
            pid, status = os.waitpid(call.pid, os.WNOHANG)
            if pid == 0:
                continue
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code
            with suppress(KeyError):
                self._watch.unregister(call.client)
            with suppress(OSError):
                call.client.send(str(code).encode())
            call.client.close()
            del self._calls[pid]
            spent = time.monotonic() - call.start
            self.ran.append(Ran(call.step, call.line, call.words, code, spent))


def _child(asked: dict[str, object], files: list[int], main: click.Command) -> None:
    """Become the command; never returns."""
    code = 1
    try:
        os.setpgid(0, 0)
        for number, file in enumerate(files):
            os.dup2(file, number)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "rw"[n > 0]) for n in range(3))
        words, env = asked["words"], asked["env"]
        assert isinstance(words, list) and isinstance(env, dict)
        os.chdir(str(asked["folder"]))
        os.environ.clear()
        os.environ.update(env)
        sys.argv = ["svp", *words]
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(
                number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            )
        code = _run(main)
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _run(main: click.Command) -> int:
    import traceback

    try:
        main(prog_name="svp")
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - a forked child: no caller would print it
        traceback.print_exc()
        return 1
    return 0


def import_everything() -> None:
    """Import all that the commands import, so that no child has to; nothing is computed.

    The collector passes over none of it, here or in the children, which would then copy its pages.
    """
    gc.disable()
    try:
        _import_everything()
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # what is never freed some packages report as their leaks


def _import_everything() -> None:
    import accelerate  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import peft  # noqa: F401
    import segment_anything  # noqa: F401
    import tensorboard.summary  # noqa: F401
    import timm.models.tiny_vit  # noqa: F401
    import torch
    import transformers
    import zarr  # noqa: F401

    import svp

    torch.set_num_threads(1)
    for name in ("CLIPModel", "Dinov2WithRegistersModel", "LlamaForCausalLM", "LlamaTokenizer"):
        getattr(transformers, name)

    for info in pkgutil.walk_packages(svp.__path__, "svp."):
        if info.name.split(".")[1] in ("pipeline", "model", "train", "integrations"):
            importlib.import_module(info.name)
