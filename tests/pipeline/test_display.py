"""Terminal codes and bidi overrides never reach a message unescaped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svp.pipeline.display import escape, shorten, show
from svp.pipeline.errors import DataError, ImageError, MissingError, MissingPackageError, describe


@given(st.text())
def test_escaped_text_is_printable_and_bounded(text: str) -> None:
    assert all(c.isprintable() or c == " " or ord(c) > 127 for c in escape(text))
    assert not set("\x1b\n\r\x07\u202e\u2066") & set(escape(text))
    assert len(shorten(text, 40)) <= 40


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:word@b/x", "s3://***@b/x"),
        ("s3:/key:wo/rd@b/x", "s3:/***@b/x"),
        ("'tcp://user:word@host:8786': no", "'tcp://***@host:8786': no"),
        ("az://c/x?sv=1&sig=word/y", "az://c/x?***"),
        ("no https://h:1/x?word, y", "no https://h:1/x?*** y"),
        ("s3://b/photo@2x.png", "s3://b/photo@2x.png"),
        ("a/b?c:d@e", "a/b?c:d@e"),
        ("s3://" + "a" * 300 + ":word@b" + "x" * 300, "s3://***@b"),
    ],
)
def test_credentials_of_addresses_are_not_shown(text: str, shown: str) -> None:
    assert show(text).startswith(shown) and "word" not in show(text)


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
