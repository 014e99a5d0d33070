"""What the fuzz tests share: mutated bytes, mutated JSON, and what a parser may do with them.

A parser of untrusted input may return or raise an `SvpError`; its message is one printable line.
Anything else is a finding: another exception, more than `CPU_S` seconds of computing, or memory
beyond `SPARE` (the address space is capped while it runs, so it would raise MemoryError).
"""

import json
import os
import resource
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from support import FIXTURES
from svp.pipeline.errors import SvpError, describe

CORPUS = FIXTURES / "fuzz"
CPU_S = 10.0
SPARE = 1 << 30  # bytes a parser may map beyond what the process has; inputs here are kilobytes

FUZZ = settings(
    max_examples=int(os.environ.get("SVP_FUZZ_EXAMPLES", "60")),  # `make check-long`: 1,000
    deadline=None,  # wall time says nothing on a busy machine: `CPU_S` is asserted instead
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

TOKENS = [
    b"", b"\0", b"\xff" * 8, b"\x80", b"-1", b"1e999", b"NaN", b"null", b"[" * 2000, b"{" * 2000,
    b'"\\ud800"', b"9" * 5000, b"../", b"\r", b"\n", b"\xef\xbb\xbf", b"!!python/object:os.system",
    b"&a [*a]", b"!!int ''", b"!!timestamp x", b"!!bool x", b"!!float ''", b"0x", b"1:99:99",
]  # fmt: skip
# A tree of tensors or images has numbers, names and lists; these replace one of them at a time.
ODD: list[object] = [
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308, 5e-324,
    "", "x", "\0", "../x", "/etc/passwd", "ok", "\u202e", "9" * 400, "train", [], {}, [[]], [{}],
    {"a": {}}, [1, "x", None], ["x"] * 50, {"": ""}, [[[[[[[[[[]]]]]]]]]],
]  # fmt: skip


def seeds(kind: str) -> list[bytes]:
    """The kept inputs of a parser: valid files, and every one that ever broke it."""
    found = [path.read_bytes() for path in sorted((CORPUS / kind).iterdir())]
    assert found, f"{kind}: no corpus"
    return found


@st.composite
def mutated(draw: st.DrawFn, corpus: list[bytes]) -> bytes:
    """A corpus file with some bytes flipped, cut out, doubled, or replaced by odd tokens."""
    data = bytearray(draw(st.sampled_from(corpus)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        stop = start + draw(st.integers(0, 12))
        match draw(st.integers(0, 4)):
            case 0 if data:
                data[start] ^= 1 << draw(st.integers(0, 7))
            case 1:
                del data[start:stop]
            case 2:
                data[start:start] = data[start:stop] * draw(st.integers(1, 3))
            case 3:
                data[start:stop] = draw(st.sampled_from(TOKENS))
            case _:
                data[start:stop] = draw(st.binary(max_size=8))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data)


@st.composite
def mutated_json(draw: st.DrawFn, corpus: list[bytes]) -> object:
    """A JSON value of the corpus in which one to three parts are replaced, removed or doubled."""
    value = json.loads(draw(st.sampled_from(corpus)))
    for _ in range(draw(st.integers(1, 3))):
        value = _replace(draw, value)
    return value


def _replace(draw: st.DrawFn, value: object) -> object:
    if isinstance(value, dict) and value and draw(st.integers(0, 7)):
        key = draw(st.sampled_from(sorted(value)))
        match draw(st.integers(0, 8)):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return value | {draw(st.sampled_from(["x", "", "\0", "../x", "9"])): value[key]}
            case _:
                return value | {key: _replace(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 7)):
        place = draw(st.integers(0, len(value) - 1))
        match draw(st.integers(0, 8)):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return value[: place + 1] + value[place:]
            case _:
                return [*value[:place], _replace(draw, value[place]), *value[place + 1 :]]
    return draw(st.sampled_from(ODD))


def holds(parse: Callable[[], object]) -> bool:
    """Run a parser. True if it accepted, False if it refused in the way it may."""
    with _capped():
        began = time.thread_time()
        try:
            parse()
        except SvpError as error:
            message = describe(error)
            # Blanks other than the common one (Zs) stay as they are: they move nothing.
            plain = "".join(char for char in message if unicodedata.category(char) != "Zs")
            assert plain.isprintable() and len(message) < 4000, f"unprintable: {message!r}"
            return False
        finally:
            used = time.thread_time() - began
            assert used < CPU_S, f"{used:.1f} s of computing for one small input"
    return True


@contextmanager
def _capped() -> Iterator[None]:
    """No more than `SPARE` bytes of address space beyond what is mapped now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
