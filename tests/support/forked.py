"""An interpreter for tests that need a process but not its start.

Importing torch and transformers takes seconds, a program of a test often less than one. `python()` is a
stand-in for `sys.executable`: it hands its words, folder, environment and open files to a server, which
has imported all that `svp` does (`fresh.py`), and whose forked child becomes the program. It passes
signals on, and it ends as the child ends, by the same exit code or signal. Nothing but imports happens in
the server, so that all children start alike. `torchrun` starts its ranks so too, with `launched()`.

What depends on the start itself (what is imported, variables read at import, the hash seed) needs
`sys.executable`.
"""

import atexit
import gc
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

from support.fresh import FRESH

SHIM = """#!{python} -SE
import json, os, signal, socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect({path!r})
call = {{"words": sys.argv[1:], "folder": os.getcwd(), "env": dict(os.environ)}}
text = json.dumps(call).encode()
socket.send_fds(client, [len(text).to_bytes(4, "big")], [0, 1, 2])
client.sendall(text)
answers = client.makefile()
pid = int(answers.readline() or 0)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
code = int(answers.readline() or -signal.SIGKILL)
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@cache
def python() -> str:
    """The stand-in; `sys.executable` where the end of a child is no file to wait for (not Linux)."""
    if not hasattr(os, "pidfd_open"):
        return sys.executable
    folder = Path(tempfile.mkdtemp(prefix="svp-forked-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    place, shim = folder / "socket", folder / "python"
    shim.write_text(SHIM.format(python=sys.executable, path=str(place)))
    shim.chmod(0o755)
    mine, its = FRESH.Pipe()
    FRESH.Process(target=serve, args=(str(place), its)).start()
    its.close()
    assert mine.recv() == "ready"
    atexit.register(mine.close)  # which ends the server
    return str(shim)


def launched(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`env` with which `torchrun` starts its ranks by the stand-in."""
    return {**env, "PYTHON_EXEC": python()}


class _Server:
    def __init__(self, place: str, owner: Connection) -> None:
        self._owner, self._listener = owner, socket.socket(socket.AF_UNIX)
        self._listener.bind(place)
        self._listener.listen(32)
        self._watch = selectors.DefaultSelector()
        self._watch.register(self._listener, selectors.EVENT_READ)
        self._watch.register(owner, selectors.EVENT_READ)
        self._clients: dict[int, tuple[socket.socket, int]] = {}  # by the file of a child: its pid

    def serve(self) -> list[str] | None:
        """In the server: None, when nobody needs it any more. In a child: its words."""
        while True:
            for key, _ in self._watch.select():
                if key.fileobj is self._owner:
                    return self._end()
                if key.fileobj is self._listener:
                    if (words := self._take()) is not None:
                        return words
                elif isinstance(key.fileobj, int):
                    self._ended(key.fileobj)
                else:
                    self._gone(key.data)

    def _take(self) -> list[str] | None:
        """The words, in the child."""
        client, _ = self._listener.accept()
        size, files, _, _ = socket.recv_fds(client, 4, 3)
        text = b""
        while len(text) < int.from_bytes(size, "big"):
            text += client.recv(1 << 16)
        call = json.loads(text)
        pid = os.fork()
        if pid == 0:
            self._close()
            client.close()
            become(call["folder"], call["env"], files)
            words: list[str] = call["words"]
            return words
        for file in files:
            os.close(file)
        client.send(f"{pid}\n".encode())
        ended = os.pidfd_open(pid)
        self._clients[ended] = client, pid
        self._watch.register(ended, selectors.EVENT_READ)
        self._watch.register(client, selectors.EVENT_READ, ended)
        return None

    def _ended(self, file: int) -> None:
        client, pid = self._clients.pop(file)
        _, status = os.waitpid(pid, 0)
        with suppress(OSError):
            client.send(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        self._watch.unregister(file)
        with suppress(KeyError):
            self._watch.unregister(client)
        os.close(file)
        client.close()

    def _gone(self, file: int) -> None:
        """The stand-in was killed: so is the child."""
        client, pid = self._clients.get(file, (None, 0))
        if client is not None:
            self._watch.unregister(client)
            os.kill(pid, signal.SIGKILL)

    def _end(self) -> None:
        for _, pid in self._clients.values():
            os.kill(pid, signal.SIGKILL)

    def _close(self) -> None:
        self._watch.close()
        self._listener.close()
        self._owner.close()
        for file, (client, _) in self._clients.items():
            os.close(file)
            client.close()


def become(folder: str, env: Mapping[str, str], files: list[int]) -> None:
    """Take over the place, the environment and the files of the stand-in."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    added = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = [path for path in added if path not in sys.path]


def execute(words: list[str]) -> NoReturn:
    """As the interpreter does with these words, but for the end of packages that are not its own."""
    code = 0
    try:
        _execute(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - nobody else would print it
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined] # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _execute(words: list[str]) -> None:
    while words[0] in ("-u", "-P", "-B"):
        if words.pop(0) == "-u":
            for stream in (sys.stdout, sys.stderr):
                stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    if words[0] == "-c":
        sys.argv, code = ["-c", *words[2:]], words[1]
        sys.path.insert(0, "")
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(main))  # noqa: S102
    elif words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")


def serve(place: str, owner: Connection) -> None:
    """Answer until the owner is gone; in a child, become the program."""
    gc.freeze()
    server = _Server(place, owner)
    owner.send("ready")
    words = server.serve()
    if words is not None:
        execute(words)
