"""Terminal codes and bidi overrides never reach a message unescaped."""

from hypothesis import given
from hypothesis import strategies as st

from svp.pipeline.display import escape, shorten, show
from svp.pipeline.errors import DataError, ImageError, MissingError, MissingPackageError, describe


@given(st.text())
def test_escaped_text_is_printable_and_bounded(text: str) -> None:
    assert all(c.isprintable() or c == " " or ord(c) > 127 for c in escape(text))
    assert not set("\x1b\n\r\x07\u202e\u2066") & set(escape(text))
    assert len(shorten(text, 40)) <= 40


def test_messages() -> None:
    assert show("\u202egnp.exe") == "\\u202egnp.exe"
    assert describe(MissingError("no file")) == "no file"
    assert describe(ValueError("x\x1b")) == "ValueError: x\\x1b"
    assert "pip install 'svp[slic]'" in describe(MissingPackageError("skimage", "slic", "SLIC"))


def test_errors_survive_the_way_between_processes() -> None:
    import copy

    error = copy.copy(ImageError("truncated", "a.jpg: cut off"))
    assert (error.reason, str(error)) == ("truncated", "a.jpg: cut off")
    package = copy.copy(MissingPackageError("ray", "ray", "--executor ray"))
    assert "svp[ray]" in str(package)
    assert isinstance(error, DataError)
