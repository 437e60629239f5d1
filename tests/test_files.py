"""Data files: found, checked, or refused in one line."""

from __future__ import annotations

import gc
import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lr_env.errors import UserError
from lr_env.tasks import downloads
from lr_env.tasks.downloads import Archive, DataFile, Published

CONTENT = bytes(range(256)) * 20
PACKED = gzip.compress(CONTENT, mtime=0)
CLOSED_PORT = "http://127.0.0.1:9"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def published(url: str = CLOSED_PORT) -> DataFile:
    folders = ("FashionMNIST/raw", "fashion-mnist")
    return DataFile("images.gz", folders, f"{url}/images.gz", sha256(PACKED), sha256(CONTENT))


def put(root: Path, place: str, content: bytes) -> Path:
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads this machine's files or goes through a proxy."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("LR_ENV_DATA", raising=False)
    monkeypatch.setenv("LR_ENV_CACHE", str(tmp_path / "cache"))


def refusal(file: Published) -> str:
    """The one line in which a file is refused."""
    with pytest.raises(UserError) as caught:
        downloads.read_archive(file) if isinstance(file, Archive) else downloads.read(file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["LR_ENV_DATA", "LR_ENV_CACHE"])
@pytest.mark.parametrize("folder", ["FashionMNIST/raw", "fashion-mnist"])
@pytest.mark.parametrize(
    ("name", "content"),
    [("images.gz", PACKED), ("images.gz", gzip.compress(CONTENT, 1, mtime=7)), ("images", CONTENT)],
    ids=["as published", "compressed anew", "unpacked"],
)
def test_every_layout_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, folder: str, name: str, content: bytes
) -> None:
    put(tmp_path / "here", f"{folder}/{name}", content)
    monkeypatch.setenv(variable, str(tmp_path / "here"))
    assert downloads.read(published()) == CONTENT


def test_the_data_folder_comes_before_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LR_ENV_DATA", str(tmp_path / "here"))
    put(tmp_path / "here", "fashion-mnist/images.gz", PACKED)
    put(tmp_path / "cache", "fashion-mnist/images.gz", b"not looked at")
    assert downloads.read(published()) == CONTENT


def test_a_data_folder_without_the_file_falls_back_to_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LR_ENV_DATA", str(tmp_path))
    put(tmp_path / "cache", "FashionMNIST/raw/images.gz", PACKED)
    assert downloads.read(published()) == CONTENT


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("images.gz", PACKED[: len(PACKED) // 2], "truncated"),
        ("images.gz", PACKED[:-1], "truncated"),
        ("images.gz", PACKED[:5], "truncated"),
        ("images.gz", b"", "not the published file"),
        ("images.gz", b"<html>not found</html>", "not a gzip file"),
        ("images.gz", PACKED[:10] + b"\xff" * 50, "truncated or not a gzip file"),
        ("images.gz", gzip.compress(CONTENT[:-1] + b"x"), "not the published file"),
        ("images", CONTENT[:-1], "not the published file"),
    ],
    ids=["half", "a byte short", "five bytes", "empty", "a page", "garbled", "altered", "unpacked and short"],
)
@pytest.mark.parametrize(("variable", "remedy"), [("LR_ENV_DATA", "unset LR_ENV_DATA"), ("LR_ENV_CACHE", "delete it")])
def test_bad_files_are_refused_and_kept(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
    why: str,
    variable: str,
    remedy: str,
) -> None:
    path = put(tmp_path / "here", f"fashion-mnist/{name}", content)
    monkeypatch.setenv(variable, str(tmp_path / "here"))
    line = refusal(published())
    assert why in line
    assert remedy in line
    assert str(path) in line
    assert path.read_bytes() == content


def test_a_data_folder_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (put(tmp_path, "file", b""), tmp_path / "nowhere"):
        monkeypatch.setenv("LR_ENV_DATA", str(place))
        line = refusal(published())
        assert "cannot read the data folder" in line
        assert str(place) in line


@pytest.mark.parametrize("variable", ["LR_ENV_DATA", "LR_ENV_CACHE"])
def test_a_folder_that_may_not_be_read_is_refused_by_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    def forbidden(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    put(tmp_path / "here", "fashion-mnist/images.gz", PACKED)
    monkeypatch.setenv(variable, str(tmp_path / "here"))
    monkeypatch.setattr(Path, "iterdir", forbidden)
    line = refusal(published())
    assert "Permission denied" in line
    assert variable in line


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    put(tmp_path / "cache", "fashion-mnist/images.gz", PACKED)
    monkeypatch.setattr(Path, "read_bytes", forbidden)
    assert "Permission denied" in refusal(published())


# Downloads ---------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A web server on this machine.

    Attributes:
        url: where it is.
        body: what it answers.
        status: HTTP status.
        announced: length that it announces, if not that of the body.
        requests: how many it had.
    """

    url: str = ""
    body: bytes = PACKED
    status: int = 200
    announced: int | None = None
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            self.send_response(state.status)
            self.send_header("Content-Length", str(len(state.body) if state.announced is None else state.announced))
            self.end_headers()
            self.wfile.write(state.body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{listening.server_port}"
        yield state
        listening.shutdown()
        thread.join()


def cached(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_download_is_cached_and_then_read_without_network(tmp_path: Path, server: Server) -> None:
    assert downloads.read(published(server.url)) == CONTENT
    assert [path.name for path in cached(tmp_path)] == ["images.gz"]
    assert downloads.read(published(server.url)) == CONTENT
    assert server.requests == ["/images.gz"]
    assert downloads.read(published(CLOSED_PORT)) == CONTENT


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # pooch does not close what it refuses
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"body": gzip.compress(b"something else")}, "is not the published file"),
        ({"body": b""}, "is not the published file"),
        ({"body": PACKED[:100], "announced": len(PACKED)}, "cannot download"),
        ({"status": 404}, "cannot download"),
        ({"status": 503}, "cannot download"),
    ],
    ids=["other bytes", "nothing", "cut off", "not found", "out of order"],
)
def test_a_bad_download_is_refused_and_not_kept(
    tmp_path: Path, server: Server, change: dict[str, object], why: str
) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    line = refusal(published(server.url))
    gc.collect()  # here, where the warning is expected
    assert why in line
    assert server.url in line
    assert cached(tmp_path) == []


def test_without_network_the_line_says_where_to_put_the_file(tmp_path: Path) -> None:
    line = refusal(published(CLOSED_PORT))
    assert "connect to the network" in line
    assert "LR_ENV_DATA" in line
    assert "'fashion-mnist'" in line
    assert cached(tmp_path) == []


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("REQUESTS_CA_BUNDLE", "/no/certificates.pem", "/no/certificates.pem"),
        ("HTTPS_PROXY", "http://[", "connect to the network"),
        ("LR_ENV_CACHE", "~nosuch/cache", "LR_ENV_CACHE is '~nosuch/cache', and there is no such home"),
        ("LR_ENV_DATA", "~nosuch", "LR_ENV_DATA is '~nosuch', and there is no such home"),
        ("LR_ENV_DATA", "a" * 300, "cannot read the data folder"),
        ("LR_ENV_CACHE", "a" * 300, "File name too long"),
    ],
)
def test_what_the_environment_spoils_is_said_as_it_is(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    line = refusal(published(CLOSED_PORT.replace("http:", "https:")))
    assert words in line
    assert "\n" not in line
    assert ("cannot write" in line) == (value == "a" * 300 and variable == "LR_ENV_CACHE")


@pytest.mark.parametrize("place", [lambda path: path, lambda path: path / "below"], ids=["a file", "below a file"])
def test_a_cache_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, place: Callable[[Path], Path]
) -> None:
    monkeypatch.setenv("LR_ENV_CACHE", str(place(put(tmp_path, "file", b""))))
    assert "LR_ENV_CACHE" in refusal(published(server.url))


# Plain files and archives ------------------------------------------------------------------------------------------

MEMBERS = {"first.bin": b"1" * 3000, "second.bin": b"2" * 1000}


def packed(members: dict[str, bytes] = MEMBERS) -> bytes:
    """An archive with a folder of members, among other things."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in {
            "../outside": b"!",
            "batches/readme": b"?",
            **members,
            "old/first.bin": b"0" * 3000,
        }.items():
            info = tarfile.TarInfo(name if "/" in name else f"batches/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


TAR = packed()


def archive(url: str = CLOSED_PORT) -> Archive:
    sizes = {name: len(content) for name, content in MEMBERS.items()}
    return Archive("all.tar.gz", ("", "plain"), f"{url}/all.tar.gz", sha256(TAR), "batches", sizes)


def put_unpacked(root: Path, members: dict[str, bytes] = MEMBERS) -> None:
    for name, content in members.items():
        put(root, f"batches/{name}", content)


def test_a_plain_file_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LR_ENV_DATA", str(tmp_path))
    plain = DataFile("input.txt", ("text",), CLOSED_PORT, sha256(CONTENT), sha256(CONTENT))
    path = put(tmp_path, "text/input.txt", CONTENT)
    assert downloads.read(plain) == CONTENT
    path.write_bytes(CONTENT[:-1])
    assert "is not the published file" in refusal(plain)


@pytest.mark.parametrize("variable", ["LR_ENV_DATA", "LR_ENV_CACHE"])
@pytest.mark.parametrize("folder", ["", "plain"])
@pytest.mark.parametrize("unpacked", [False, True])
def test_an_archive_is_read_packed_and_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, folder: str, unpacked: bool
) -> None:
    root = tmp_path / "here" / folder
    put_unpacked(root) if unpacked else put(root, "all.tar.gz", TAR)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv(variable, str(tmp_path / "here"))
    assert downloads.read_archive(archive()) == MEMBERS
    assert sorted(tmp_path.rglob("*")) == before  # nothing was unpacked to disk


def test_the_published_archive_comes_before_a_folder_that_may_be_another_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LR_ENV_DATA", str(tmp_path))
    put_unpacked(tmp_path, {name: bytes(len(content)) for name, content in MEMBERS.items()})
    assert downloads.read_archive(archive())["first.bin"] == bytes(3000)
    put(tmp_path, "all.tar.gz", TAR)
    assert downloads.read_archive(archive()) == MEMBERS


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("all.tar.gz", TAR[:-1], "is not the published file"),
        ("all.tar.gz", b"", "is not the published file"),
        ("all.tar.gz", packed({**MEMBERS, "second.bin": b"3" * 1000}), "is not the published file"),
        ("batches/second.bin", b"2" * 999, "second.bin' has 999 bytes, not 1,000"),
        ("batches/second.bin", b"2" * 1001, "second.bin' has 1,001 bytes, not 1,000"),
        ("batches/second.bin", None, "second.bin' (No such file or directory)"),
    ],
    ids=["a byte short", "empty", "altered", "member too short", "member too long", "member missing"],
)
@pytest.mark.parametrize(
    ("variable", "remedy"), [("LR_ENV_DATA", "unset LR_ENV_DATA"), ("LR_ENV_CACHE", "downloaded again")]
)
def test_bad_archives_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes | None,
    why: str,
    variable: str,
    remedy: str,
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "here"))
    put_unpacked(tmp_path / "here")
    if content is None:
        (tmp_path / "here" / name).unlink()
    else:
        put(tmp_path / "here", name, content)
    line = refusal(archive())
    assert why in line
    assert remedy in line
    assert str(tmp_path / "here" / name) in line
    if variable == "LR_ENV_CACHE" and name != "all.tar.gz":  # without one of its files, the folder would be no better
        assert f"delete the folder {str(tmp_path / 'here' / 'batches')!r}" in line


def test_a_downloaded_archive_is_cached_packed(tmp_path: Path, server: Server) -> None:
    server.body = TAR
    for url in (server.url, CLOSED_PORT):
        assert downloads.read_archive(archive(url)) == MEMBERS
    assert [path.name for path in cached(tmp_path)] == ["all.tar.gz"]
    assert server.requests == ["/all.tar.gz"]


def test_a_bad_downloaded_archive_is_refused_and_not_kept(tmp_path: Path, server: Server) -> None:
    server.body = TAR[:-1]
    assert "is not the published file" in refusal(archive(server.url))
    assert cached(tmp_path) == []
