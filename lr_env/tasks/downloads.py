"""Data files: found in a local folder, else in the cache, else downloaded; always checked."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lr_env.errors import UserError
from lr_env.files import in_home


@dataclass(frozen=True)
class Published:
    """What is published at one address.

    Attributes:
        name: file name as published, e.g. "train-images-idx3-ubyte.gz".
        folders: where it may lie below the data folder ("" is the data folder itself), in order of search:
            torchvision's layout, then a plain one.
        url: where it is downloaded from.
        sha256: of the published file: what a download must match.
    """

    name: str
    folders: tuple[str, ...]
    url: str
    sha256: str

    @property
    def forms(self) -> tuple[str, ...]:
        """The names under which it is accepted, in order of search."""
        return (self.name,)


@dataclass(frozen=True)
class DataFile(Published):
    """One published file, plain or gzip-compressed; the unpacked file (without ".gz") is accepted too.

    Attributes:
        content_sha256: of the unpacked content: what every copy must match, however it was compressed.
    """

    content_sha256: str

    @property
    def forms(self) -> tuple[str, ...]:
        """As published, and the unpacked file."""
        return self.name, self.name.removesuffix(".gz")


@dataclass(frozen=True)
class Archive(Published):
    """A published tar.gz file; the folder that it unpacks into is accepted too.

    Of the folder's files only the sizes are checked, because copies with other content go by the same names: who
    reads the archive checks what is inside, and keeps a hash of it.

    Attributes:
        unpacked: the folder in the archive that holds the members.
        members: name of each file wanted -> its size in bytes.
    """

    unpacked: str
    members: Mapping[str, int]

    @property
    def forms(self) -> tuple[str, ...]:
        """As published, and the unpacked folder."""
        return self.name, self.unpacked


def read(file: DataFile) -> bytes:
    """The unpacked, checked content of a file.

    Looks below the folder named by the environment variable `LR_ENV_DATA`, then in the cache (`LR_ENV_CACHE`, by
    default the user's cache folder), then downloads into the cache.

    Raises:
        UserError: the folder cannot be read, the file is truncated or altered, or there is no network.
    """
    path, remedy = _locate(file)
    content = _bytes(path, remedy)
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{str(path)!r} is truncated or not a gzip file ({error}): {remedy}") from error
    _check(content, file.content_sha256, path, remedy)
    return content


def read_archive(archive: Archive) -> dict[str, bytes]:
    """The content of each member of an archive, which is looked for as by `read`; nothing is unpacked to disk.

    Raises:
        UserError: as from `read`; also if a file of the unpacked folder is missing or of another size.
    """
    path, remedy = _locate(archive)
    if path.is_dir():
        contents = {name: _bytes(path / name, remedy) for name in archive.members}
    else:
        packed = _bytes(path, remedy)
        _check(packed, archive.sha256, path, remedy)
        contents = _untar(packed, archive)
    for name, size in archive.members.items():
        if len(contents[name]) != size:
            found = f"{str(path / name)!r} has {len(contents[name]):,} bytes, not {size:,}"
            raise UserError(f"{found}: it is truncated or another file: {remedy}")
    return contents


def cache_folder() -> Path:
    """Where downloaded files are kept."""
    if chosen := os.environ.get("LR_ENV_CACHE"):
        return in_home(chosen, "LR_ENV_CACHE")
    import pooch  # here, because importing it takes a tenth of a second that most imports do not need

    return Path(pooch.os_cache("lr_env"))


def _locate(file: Published) -> tuple[Path, str]:
    """Where a file is, downloaded if need be, and what to do about it if it is bad."""
    local = os.environ.get("LR_ENV_DATA")
    if local:
        found = _find(
            in_home(local, "LR_ENV_DATA"), file, "set LR_ENV_DATA to one that can be read, or unset it to download"
        )
        if found is not None:
            return found, f"replace it with what is published ({file.url}), or unset LR_ENV_DATA"
    cache = cache_folder()
    found = _find(cache, file, "set LR_ENV_CACHE to one that can be read") if os.path.isdir(cache) else None
    if found is None:
        found = _download(file, cache)
    bad = f"the folder {str(found)!r}" if found.is_dir() else "it"  # not just the one file in it that is bad
    return found, f"delete {bad}: it will be downloaded again"


def _find(root: Path, file: Published, remedy: str) -> Path | None:
    try:
        list(root.iterdir())  # exists() answers no, rather than raising, for a folder that may not be read
        for folder in file.folders:
            for form in file.forms:
                if (root / folder / form).exists():
                    return root / folder / form
    except (OSError, ValueError) as error:  # ValueError: no name of a file
        why = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read the data folder {str(root)!r} ({why}): {remedy}") from error
    return None


def _bytes(path: Path, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r} ({error.strerror}): make it readable, or {remedy}") from error


def _check(content: bytes, sha256: str, path: Path, remedy: str) -> None:
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{str(path)!r} is not the published file (its SHA-256 differs): {remedy}")


def _untar(packed: bytes, archive: Archive) -> dict[str, bytes]:
    """The members wanted, out of an archive whose hash was checked: so they are there."""
    wanted = {f"{archive.unpacked}/{name}": name for name in archive.members}
    contents = {}
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as tar:
        for member in tar:  # in their order in the file: going back would decompress it all again
            stream = tar.extractfile(member) if member.name in wanted else None
            if stream is not None:
                contents[wanted[member.name]] = stream.read()
    return contents


def _download(file: Published, cache: Path) -> Path:
    import pooch

    folder = cache / file.folders[0]
    pooch.utils.get_logger().setLevel("WARNING")
    try:
        path = pooch.retrieve(file.url, f"sha256:{file.sha256}", fname=file.name, path=folder)
    except Exception as error:
        raise UserError(_not_downloaded(error, file, folder)) from error
    return Path(path)


def _not_downloaded(error: Exception, file: Published, folder: Path) -> str:
    """What went wrong, and what to do about it."""
    import requests

    by_hand = f"put {file.name} into a folder {file.folders[-1]!r} and set LR_ENV_DATA to the folder above it"
    if isinstance(error, requests.RequestException | ConnectionError | TimeoutError):
        return f"cannot download {file.url} ({type(error).__name__}): connect to the network, or {by_hand}"
    if isinstance(error, OSError) and error.errno is not None:
        where = error.filename or str(folder)
        return f"cannot write {str(where)!r} ({error.strerror}): set LR_ENV_CACHE to a folder you own"
    if isinstance(error, ValueError) and "known hash" in str(error):  # pooch's words for a checksum that differs
        return f"what {file.url} sent is not the published file: try again later, or set LR_ENV_DATA"
    # Certificates and proxies are set by the user's environment, and are complained of in words of their own.
    return f"cannot download {file.url} ({error}): mend that, or {by_hand}"
