"""Data files: found in a local folder, else in the cache, else downloaded; always checked."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from lr_env.errors import UserError


@dataclass(frozen=True)
class DataFile:
    """One published file.

    Attributes:
        name: file name as published, gzip-compressed, e.g. "train-images-idx3-ubyte.gz".
        folders: where it may lie below the data folder, in order of search: torchvision's layout, then a plain one.
            The unpacked file (without ".gz") is accepted too.
        url: where it is downloaded from.
        sha256: of the published, compressed file: what a download must match.
        content_sha256: of the unpacked content: what every copy must match, however it was compressed.
    """

    name: str
    folders: tuple[str, ...]
    url: str
    sha256: str
    content_sha256: str


def read(file: DataFile) -> bytes:
    """The unpacked, checked content of a file.

    Looks below the folder named by the environment variable `LR_ENV_DATA`, then in the cache (`LR_ENV_CACHE`, by
    default the user's cache folder), then downloads into the cache.

    Raises:
        UserError: the folder cannot be read, the file is truncated or altered, or there is no network.
    """
    local = os.environ.get("LR_ENV_DATA")
    if local:
        found = _find(
            Path(local).expanduser(), file, "set LR_ENV_DATA to one that can be read, or unset it to download"
        )
        if found is not None:
            return _unpack(found, file, f"replace it with the published file ({file.url}), or unset LR_ENV_DATA")
    cache = cache_folder()
    found = _find(cache, file, "set LR_ENV_CACHE to one that can be read") if cache.is_dir() else None
    if found is None:
        found = _download(file, cache)
    return _unpack(found, file, "delete it: it will be downloaded again")


def cache_folder() -> Path:
    """Where downloaded files are kept."""
    if chosen := os.environ.get("LR_ENV_CACHE"):
        return Path(chosen).expanduser()
    import pooch  # here, because importing it takes a tenth of a second that most imports do not need

    return Path(pooch.os_cache("lr_env"))


def _find(root: Path, file: DataFile, remedy: str) -> Path | None:
    try:
        list(root.iterdir())  # is_file() answers no, rather than raising, for a folder that may not be read
        for folder in file.folders:
            for name in (file.name, file.name.removesuffix(".gz")):
                if (root / folder / name).is_file():
                    return root / folder / name
    except OSError as error:
        raise UserError(f"cannot read the data folder {str(root)!r} ({error.strerror}): {remedy}") from error
    return None


def _unpack(path: Path, file: DataFile, remedy: str) -> bytes:
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{str(path)!r} is truncated or not a gzip file ({error}): {remedy}") from error
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r} ({error.strerror}): make it readable, or {remedy}") from error
    if hashlib.sha256(content).hexdigest() != file.content_sha256:
        raise UserError(f"{str(path)!r} is not the published file (its SHA-256 differs): {remedy}")
    return content


def _download(file: DataFile, cache: Path) -> Path:
    import pooch
    import requests

    folder = cache / file.folders[0]
    pooch.utils.get_logger().setLevel("WARNING")
    try:
        path = pooch.retrieve(file.url, f"sha256:{file.sha256}", fname=file.name, path=folder)
    except (requests.RequestException, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"cannot download {file.url} ({type(error).__name__}): connect to the network, or put {file.name} into "
            f"a folder {file.folders[-1]!r} and set LR_ENV_DATA to the folder above it"
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot write {str(folder)!r} ({error.strerror}): set LR_ENV_CACHE to a folder you own"
        ) from error
    except ValueError as error:  # pooch's word for a checksum that differs
        raise UserError(
            f"what {file.url} sent is not the published file: try again later, or set LR_ENV_DATA"
        ) from error
    return Path(path)
