"""Writer of all pages: templates, content security policy, atomic page folders.

Untrusted text reaches a page only through `display.shorten` and jinja2's autoescape; the policy in its
head allows its own style and script by digest, pictures beside it, and nothing else.
"""

import base64
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ... import __version__
from ..display import share, show
from ..errors import ConfigError
from ..io.atomic import check_writable, make_folders, writing

HERE = Path(__file__).parent
INDEX, ASSETS = "index.html", "assets"


def write_page(
    out: Path,
    template: Path,
    fill: Callable[[Path], Mapping[str, object]],
    *,
    filtered: bool = False,
) -> Path:
    """Write a page into the folder `out`; returns its index.html.

    template  NAME.html.j2 over `base.html.j2`; NAME.css and NAME.js beside it, where there, are the
              page's own beside the style of all
    fill      is given the new folder, writes pictures below its `ASSETS`, returns the values
    filtered  whether it has the search and filters of `tools.html.j2`

    An earlier page at `out` is replaced. ConfigError if `out` holds anything else; CacheError if it
    cannot be written.
    """
    check_replaceable(out)
    name = template.name.removesuffix(".html.j2")
    own = template.with_name(f"{name}.css")
    style = _inline(HERE / "style.css") + (_inline(own) if own.exists() else "")
    code = [HERE / "filter.js"] if filtered else []
    code += [path for path in [template.with_name(f"{name}.js")] if path.exists()]
    script = Markup("").join(map(_inline, code)) if code else None
    page = _environment(template.parent).get_template(template.name)
    with _page_folder(out) as folder:
        (folder / ASSETS).mkdir()
        values = fill(folder)
        text = page.render(
            values, version=__version__, csp=_policy(style, script), style=style, script=script
        )
        (folder / INDEX).write_text(text, encoding="utf-8")
    return out / INDEX


@cache  # a page's template takes longer to compile than to fill
def _environment(folder: Path) -> Environment:
    """Templates of `folder`, then of this one; every value is escaped, an unknown name fails."""
    made = Environment(
        loader=FileSystemLoader([folder, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["share"] = share
    made.filters["percent"] = lambda value: f"{100 * value:.2f}"
    return made


def _inline(path: Path) -> Markup:
    """Our own style or script, to stand in the page as it is."""
    text = path.read_text(encoding="utf-8")
    assert "</" not in text, f"{path.name} would end its element"
    return Markup(text)


def _policy(style: str, script: str | None = None) -> str:
    """Content-Security-Policy: this style, this script, pictures from here; nothing else.

    `file:` is what 'self' means for a page opened from a disk, where browsers disagree on 'self'.
    """
    scripts = f" script-src '{_digest(script)}';" if script is not None else ""
    return (
        f"default-src 'none'; style-src '{_digest(style)}';{scripts} "
        "img-src 'self' file:; base-uri 'none'; form-action 'none'"
    )


@contextmanager
def _page_folder(out: Path) -> Iterator[Path]:
    """A new folder that takes the place of `out` when the body ends without an error."""
    make_folders(out.parent)
    with writing(out):
        fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".partial", dir=out.parent))
    try:
        fresh.chmod(0o755)
        yield fresh
        with writing(out):
            if out.exists():
                shutil.rmtree(out)
            os.replace(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_replaceable(out: Path) -> None:
    """ConfigError unless `out` is absent, empty, or a page of ours; CacheError if it cannot be made."""
    check_writable(out)
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConfigError(f"{show(str(out))} is not a folder: give another --out")
    if not out.exists():
        return
    names = {entry.name for entry in out.iterdir()}
    if not names:
        return
    page = out / INDEX
    # Without pictures there may be no folder of them: Git keeps no empty one.
    ours = {INDEX} <= names <= {INDEX, ASSETS} and b'name="generator" content="svp ' in _head(page)
    if not ours:
        raise ConfigError(f"{show(str(out))} holds other files: give an empty or new folder")


def _head(page: Path) -> bytes:
    with page.open("rb") as handle:
        return handle.read(4096)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
