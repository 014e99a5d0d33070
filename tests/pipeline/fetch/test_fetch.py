"""`svp fetch` against a server on the loopback interface that misbehaves on request."""

import hashlib
import http.server
import os
import re
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from svp.pipeline.errors import ConfigError, DataError, MissingError
from svp.pipeline.fetch import catalogue as fetch_list
from svp.pipeline.fetch.catalogue import REMOTES, Remote, RemoteFile, find_remote
from svp.pipeline.fetch.download import Patience, digest_of, download
from svp.pipeline.fetch.fetch import fetch, offer_lines, offers, progress_bars
from svp.pipeline.weights.locate import weight_files

BODY = bytes(range(256)) * 4096  # 1 MiB
QUICK = Patience(tries=2, backoff_s=0.0, timeout_s=5.0)


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; each request first takes one word from `script`, or "ok" when it is empty."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/file.bin": BODY}
        self.script: list[str] = []
        self.seen: list[tuple[str, str | None]] = []  # (path, Range header)
        self.etag = '"v1"'

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Range")))
        act = self.server.script.pop(0) if self.server.script else "ok"
        if act.isdecimal():
            self._head(int(act), {"Content-Length": "0"})
        elif act.startswith("to:"):
            self._head(302, {"Location": act[3:], "Content-Length": "0"})
        elif urlsplit(self.path).path not in self.server.files:
            self._head(404, {"Content-Length": "0"})
        else:
            self._body(act, self.server.files[urlsplit(self.path).path])

    def _body(self, act: str, data: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        current = self.headers.get("If-Range", self.server.etag) == self.server.etag
        start = int(asked[1]) if asked and current and act != "norange" else 0
        total = 1 << 50 if act == "huge" else len(data)
        headers = {"ETag": self.server.etag, "Content-Length": str(total - start)}
        if act == "endless":
            del headers["Content-Length"]
        if start:
            shown = start + 7 if act == "shifted" else start
            headers["Content-Range"] = f"bytes {shown}-{total - 1}/{total}"
        self._head(206 if start else 200, headers)
        payload = data[start:]
        if act == "cut":
            payload = payload[: len(payload) // 2]
        if act == "endless":
            payload = data * 4
        try:
            self.wfile.write(payload)
        except ConnectionError:  # the client has refused the rest
            pass

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def remote(server: Server, **changes: object) -> RemoteFile:
    fields: dict[str, object] = {
        "url": f"{server.base}/file.bin",
        "path": "file.bin",
        "size": len(BODY),
        "digest": f"sha256:{hashlib.sha256(BODY).hexdigest()}",
    }
    return RemoteFile(**{**fields, **changes})  # type: ignore[arg-type]


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_download_then_keep(server: Server, tmp_path: Path) -> None:
    target, seen = tmp_path / "file.bin", []
    for _ in range(2):
        got = download(
            remote(server), target, patience=QUICK, on_progress=lambda a, b: seen.append((a, b))
        )
        assert got == target and target.read_bytes() == BODY
    assert len(server.seen) == 1 and left(tmp_path) == {"file.bin"}
    assert seen[-1] == (len(BODY), len(BODY))


def test_a_damaged_file_in_place_is_fetched_again(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.bin"
    target.write_bytes(BODY[:-1] + b"\0")
    download(remote(server), target, patience=QUICK)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("status", ["500", "503", "429"])
def test_retry_after_a_server_fault(server: Server, tmp_path: Path, status: str) -> None:
    server.script = [status, "ok"]
    download(remote(server), tmp_path / "file.bin", patience=QUICK)
    assert len(server.seen) == 2


def test_a_cut_transfer_is_resumed_where_it_stopped(server: Server, tmp_path: Path) -> None:
    # More cuts than tries: a try that brings bytes does not use patience up.
    server.script = ["cut"] * 5
    download(remote(server), tmp_path / "file.bin", patience=QUICK)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    starts = [int(asked.partition("=")[2][:-1]) if asked else 0 for _, asked in server.seen]
    assert starts == sorted(set(starts)) and len(starts) == 6


def test_resume_across_runs(server: Server, tmp_path: Path) -> None:
    server.script = ["cut", "500", "500"]
    with pytest.raises(MissingError):
        download(remote(server), tmp_path / "file.bin", patience=QUICK)
    assert left(tmp_path) == {"file.bin.partial", "file.bin.partial.etag"}
    download(remote(server), tmp_path / "file.bin", patience=QUICK)
    assert server.seen[-1][1] == f"bytes={len(BODY) // 2}-"
    assert left(tmp_path) == {"file.bin"}


def test_a_resume_never_joins_two_versions(server: Server, tmp_path: Path) -> None:
    file = remote(server, digest="")
    server.script = ["cut", "500", "500"]
    with pytest.raises(MissingError):
        download(file, tmp_path / "file.bin", patience=QUICK)
    server.files["/file.bin"] = BODY[::-1]
    server.etag = '"v2"'
    download(file, tmp_path / "file.bin", patience=QUICK)
    assert (tmp_path / "file.bin").read_bytes() == BODY[::-1]


def test_server_without_ranges(server: Server, tmp_path: Path) -> None:
    server.script = ["cut", "norange"]
    download(remote(server), tmp_path / "file.bin", patience=QUICK)
    assert (tmp_path / "file.bin").read_bytes() == BODY


def test_another_range_than_asked(server: Server, tmp_path: Path) -> None:
    server.script = ["cut", "shifted"]
    with pytest.raises(DataError, match="another range"):
        download(remote(server), tmp_path / "file.bin", patience=QUICK)


def test_wrong_digest_is_deleted(server: Server, tmp_path: Path) -> None:
    wrong = remote(server, digest="sha256:" + "0" * 64)
    with pytest.raises(DataError, match="not the published sha256:0000"):
        download(wrong, tmp_path / "file.bin", patience=QUICK)
    assert left(tmp_path) == set()


def test_huge_offer_is_refused_before_reading(server: Server, tmp_path: Path) -> None:
    server.script = ["huge"]
    with pytest.raises(DataError, match="expected exactly 1048576"):
        download(remote(server), tmp_path / "file.bin", patience=QUICK)
    assert left(tmp_path) == set()


def test_unannounced_length_is_bounded(server: Server, tmp_path: Path) -> None:
    server.script = ["endless"]
    with pytest.raises(DataError, match="more than 1572864 bytes"):
        download(remote(server, exact=False), tmp_path / "file.bin", patience=QUICK)
    assert (tmp_path / "file.bin.partial").stat().st_size <= 1572864


def test_not_found_says_where_to_put_the_file(server: Server, tmp_path: Path) -> None:
    gone = remote(server, url=f"{server.base}/gone.bin")
    with pytest.raises(MissingError, match=r"answers 404.*put it at .*/file\.bin$"):
        download(gone, tmp_path / "file.bin", patience=QUICK)
    assert len(server.seen) == 1  # not tried again


def test_no_server_says_where_to_put_the_file(tmp_path: Path) -> None:
    with Server() as closed:
        file = remote(closed)
    with pytest.raises(MissingError, match=r"ConnectError.*another machine.*file\.bin"):
        download(file, tmp_path / "file.bin", patience=QUICK)


def test_redirects(server: Server, tmp_path: Path) -> None:
    server.script = ["to:/file.bin?signed=1"]
    download(remote(server), tmp_path / "file.bin", patience=QUICK)
    assert [path for path, _ in server.seen] == ["/file.bin", "/file.bin?signed=1"]


@pytest.mark.parametrize(
    "location", ["http://example.org/x", "http://10.0.0.1/x", "file:///etc/passwd", "ftp://a/b"]
)
def test_redirect_away_from_https_is_refused(server: Server, tmp_path: Path, location: str) -> None:
    server.script = [f"to:{location}"]
    with pytest.raises(DataError, match="only https"):
        download(remote(server), tmp_path / "file.bin", patience=QUICK)


def test_redirect_loop_ends(server: Server, tmp_path: Path) -> None:
    server.script = ["to:/file.bin"] * 20
    with pytest.raises(DataError, match="redirects"):
        download(remote(server), tmp_path / "file.bin", patience=QUICK)


def test_full_disk_is_said_before_reading(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 10

    monkeypatch.setattr("svp.pipeline.fetch.download.shutil.disk_usage", lambda _: Usage)
    with pytest.raises(DataError, match="1048576 bytes needed, 10 free"):
        download(remote(server), tmp_path / "file.bin", patience=QUICK)


def test_fetch_unpacks_and_repeats(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "made.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("refcoco/instances.json", "{}")
    server.files["/refcoco%2B.zip"] = archive.read_bytes()
    file = RemoteFile(
        "https://unused.invalid/x",
        "refcoco+.zip",
        archive.stat().st_size,
        digest_of(archive, "md5"),
        unpack=True,
    )
    monkeypatch.setitem(fetch_list.REMOTES, "toy", Remote("toy", "a toy", "none", (file,)))
    dest = tmp_path / "data"
    for _ in range(2):
        done = fetch("toy", dest, base_url=server.base + "/", patience=QUICK)
        assert done == [dest / "refcoco+.zip", dest / "refcoco/instances.json"]
    assert len(server.seen) == 1
    assert {offer.name for offer in offers(dest) if offer.present} == {"toy"}


def test_the_list_says_size_licence_and_what_is_here(tmp_path: Path) -> None:
    config = REMOTES["vit_t"].files[0]
    (tmp_path / config.path).touch()
    os.truncate(tmp_path / config.path, config.size)
    lines = offer_lines(tmp_path)
    line = next(line for line in lines if " vit_t " in line)
    assert line.startswith("* ") and "40.7 MB" in line and "Apache-2.0" in line
    assert sum(line.startswith("* ") for line in lines[:-2]) == 1
    assert any("~88.3 MB" in line and "no published digest" in line for line in lines)


def test_progress_reaches_the_end_and_names_the_source(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = remote(server)
    with progress_bars() as on_file:
        download(file, tmp_path / "file.bin", patience=QUICK, on_progress=on_file(file))
    assert "file.bin (1.0 MB) from" in capsys.readouterr().err


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="vit_b, vit_l"):
        find_remote("vit_x\x1b[31m")


def test_the_list_is_sound() -> None:
    for entry in REMOTES.values():
        for file in entry.files:
            assert urlsplit(file.url).scheme == "https"
            assert re.fullmatch(r"(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})?", file.digest)
            assert not Path(file.path).is_absolute() and ".." not in Path(file.path).parts
    # Checkpoint sizes agree with the tensors they hold (float32) to within the file overhead.
    for name, mib in {"vit_b": 357.6, "vit_l": 1191.5, "vit_h": 2445.6, "vit_t": 38.7}.items():
        assert REMOTES[name].size / 2**20 == pytest.approx(mib, rel=0.004)


@pytest.mark.parametrize("model", sorted(name for name in REMOTES if weight_files(name)))
def test_fetched_weights_are_where_they_are_looked_for(model: str) -> None:
    paths = {Path(file.path).parts[0] for file in REMOTES[model].files}
    assert paths <= set(weight_files(model))


def test_what_can_change_is_said_and_can_be_pinned(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of the hub without digests: its list entry, its doctor's line, and one commit of it."""
    said = {row.name: row.doubt for row in offers()}
    assert said["vit_h"] == said["clip-large-336"] == ""
    assert said["dinov2-small"] == "no published digest"
    assert "the newest files there" in said["siglip2-base-384"]
    line = next(line for line in offer_lines() if " siglip2-base-384 " in line)
    assert line.endswith(f"({said['siglip2-base-384']})")
    commit = "0123456789" * 4
    url = f"{server.base}/owner/name/resolve/main/model.bin"
    moving = RemoteFile(url, "m/model.bin", len(BODY), exact=False)
    entry = Remote("moving", "a model", "MIT", (moving,))
    monkeypatch.setitem(REMOTES, "moving", entry)
    assert "the newest files" in entry.doubt
    server.files[f"/owner/name/resolve/{commit}/model.bin"] = BODY
    (path,) = fetch("moving", tmp_path, revision=commit, patience=QUICK)
    assert path.read_bytes() == BODY
    assert [seen for seen, _ in server.seen] == [f"/owner/name/resolve/{commit}/model.bin"]
    with pytest.raises(ConfigError, match="need the 40 hex digits of a commit"):
        fetch("moving", tmp_path, revision="main")
    with pytest.raises(ConfigError, match="vit_t is always the same files"):
        fetch("vit_t", tmp_path, revision=commit)
