"""Data files: read from a local folder, or from the cache, or downloaded; always checked."""

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
    """A file that is published at one address.

    Attributes:
        name: file name as published, e.g. "train-images-idx3-ubyte.gz".
        folders: subfolders of the data folder in which it is searched ("" is the data folder itself), in order:
            torchvision's layout, then a plain one.
        url: address for the download.
        sha256: hash of the published file, which a download must match.
    """

    name: str
    folders: tuple[str, ...]
    url: str
    sha256: str


@dataclass(frozen=True)
class DataFile(Published):
    """A published file, plain or gzip-compressed; the unpacked file (without ".gz") is accepted, too.

    Attributes:
        content_sha256: hash of the unpacked content, which every copy must match.
    """

    content_sha256: str

    @property
    def forms(self) -> tuple[str, ...]:
        """The name as published, and that of the unpacked file."""
        return self.name, self.name.removesuffix(".gz")


@dataclass(frozen=True)
class Archive(Published):
    """A published tar.gz file; the folder that it unpacks into is accepted, too.

    Of files in the folder only the sizes are checked, because copies with other content have the same names: the caller
    checks the content and stores a hash of it.

    Attributes:
        unpacked: folder in the archive with the members.
        members: name of each file to read -> its size in bytes.
    """

    unpacked: str
    members: Mapping[str, int]

    @property
    def forms(self) -> tuple[str, ...]:
        """The name as published, and that of the unpacked folder."""
        return self.name, self.unpacked


def read(file: DataFile) -> bytes:
    """Return the unpacked, checked content of a file.

    It is searched in the folder that the environment variable `LR_ENV_DATA` names, then in the cache (`LR_ENV_CACHE`,
    by default the user's cache folder), and else downloaded into the cache.

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
    """Return the content of each member of an archive, without unpacking it to disk. It is searched like a file.

    Raises:
        UserError: as by `read`; also if a file of the unpacked folder is missing or has another size.
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
            raise UserError(
                f"{str(path / name)!r} has {len(contents[name]):,} bytes, not {size:,}: it is truncated or another "
                f"file: {remedy}"
            )
    return contents


def cache_folder() -> Path:
    """Return the folder for downloaded files."""
    if chosen := os.environ.get("LR_ENV_CACHE"):
        return in_home(chosen, "LR_ENV_CACHE")
    import pooch  # here, because importing it takes a tenth of a second

    return Path(pooch.os_cache("lr_env"))


def _locate(file: DataFile | Archive) -> tuple[Path, str]:
    """Find a file, or download it. Return its path, and what the user can do if it is damaged."""
    local = os.environ.get("LR_ENV_DATA")
    if local:
        path = _find(
            in_home(local, "LR_ENV_DATA"), file, "set LR_ENV_DATA to one that can be read, or unset it to download"
        )
        if path is not None:
            return path, f"replace it with the published file ({file.url}), or unset LR_ENV_DATA"
    cache = cache_folder()
    path = _find(cache, file, "set LR_ENV_CACHE to one that can be read") if os.path.isdir(cache) else None
    if path is None:
        path = _download(file, cache)
    damaged = f"the folder {str(path)!r}" if path.is_dir() else "it"  # not only the one file in it
    return path, f"delete {damaged}: it will be downloaded again"


def _find(root: Path, file: DataFile | Archive, remedy: str) -> Path | None:
    try:
        list(root.iterdir())  # raises for a folder that may not be read, where exists() would return False
        for folder in file.folders:
            for form in file.forms:
                if (root / folder / form).exists():
                    return root / folder / form
    except (OSError, ValueError) as error:  # ValueError: the name cannot be one of a file
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
    """Return the content of the members. The hash of the archive was checked before, so that none is missing."""
    names = {f"{archive.unpacked}/{name}": name for name in archive.members}
    contents = {}
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as tar:
        for member in tar:  # in the order of the file: going back would decompress it again
            stream = tar.extractfile(member) if member.name in names else None
            if stream is not None:
                contents[names[member.name]] = stream.read()
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
    """Describe why a download failed, and what the user can do."""
    import requests

    by_hand = f"put {file.name} into a folder {file.folders[-1]!r} and set LR_ENV_DATA to the folder above it"
    if isinstance(error, requests.RequestException | ConnectionError | TimeoutError):
        return f"cannot download {file.url} ({type(error).__name__}): connect to the network, or {by_hand}"
    if isinstance(error, OSError) and error.errno is not None:
        where = error.filename or str(folder)
        return f"cannot write {str(where)!r} ({error.strerror}): set LR_ENV_CACHE to a folder you own"
    if isinstance(error, ValueError) and "known hash" in str(error):  # pooch's words for another checksum
        return f"what {file.url} sent is not the published file: try again later, or set LR_ENV_DATA"
    # For example certificates and proxies, which the user's environment sets.
    return f"cannot download {file.url} ({error}): repair that, or {by_hand}"
