"""crc32c: the published check value, whichever library computes it."""

import subprocess
import sys

import crc32c as fallback
from hypothesis import given
from hypothesis import strategies as st

from svp.pipeline.io.binary import crc32c


def test_the_published_check_value() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, appendix B.4: the polynomial's check


@given(st.binary(max_size=3000))
def test_the_fast_library_and_the_fallback_agree(data: bytes) -> None:
    assert crc32c(memoryview(data)) == fallback.crc32c(data)


def test_works_without_the_fast_library() -> None:
    code = (
        "import sys; sys.modules['awscrt'] = None\n"
        "from svp.pipeline.io.binary import crc32c\n"
        "assert 'crc32c' in sys.modules and crc32c(b'123456789') == 0xE3069283"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
