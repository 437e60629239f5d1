"""The memory that this process can still allocate, by the machine and by the limits of control groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class _Files:
    """Files in which a version of control groups tells limits and usage of memory.

    Attributes:
        limits: files of a group that hold a limit in bytes; the lowest applies.
        usage: the file that holds the bytes in use.
        cache: name, in the group's statistics, of the bytes of cached files, which are freed when they are needed.
    """

    limits: tuple[str, ...]
    usage: str
    cache: str


_VERSIONS = {
    "cgroup2": _Files(("memory.max", "memory.high"), "memory.current", "inactive_file"),
    "cgroup": _Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
}


def free_bytes(process: Path = Path("/proc/self"), machine: Path = Path("/proc/meminfo")) -> int:
    """Bytes that this process can still allocate on the host, the limits of containers and batch systems included.

    A process is in one control group for memory, of version 1 or 2, and is bound by the limits of that group and of all
    above it. Also counts the limit of its address space (`ulimit -v`).

    Args:
        process: folder in which the system describes the process.
        machine: file in which it describes the machine's memory.
    """
    bounds = [*_group_bounds(process), *_address_bounds(process)]
    try:
        for line in machine.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                bounds.append(int(line.split()[1]) * 1024)
    except OSError:  # not Linux: what is installed is the best bound there is
        bounds.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(bounds)


def _group_bounds(process: Path) -> Iterator[int]:
    """Bytes left by each of the process's control groups."""
    for kind, folder, top in _groups(process):
        files = _VERSIONS[kind]
        for group in (folder, *folder.parents):
            with suppress(OSError, ValueError):  # the topmost has no limit
                limits = [(group / name).read_text().strip() for name in files.limits if (group / name).exists()]
                limit = min(int(text) for text in limits if text != "max")
                used = int((group / files.usage).read_text())
                stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                yield max(0, limit - used + int(stat.get(files.cache, 0)))
            if group == top:
                break


def _groups(process: Path) -> Iterator[tuple[str, Path, Path]]:
    """The process's groups for memory: version, folder, and the topmost folder that is mounted."""
    try:
        paths = dict(_paths((process / "cgroup").read_text()))
        mounts = (process / "mountinfo").read_text().splitlines()
    except OSError:
        return
    for line in mounts:
        before, _, after = line.partition(" - ")
        fields, source = before.split(), after.split()
        if len(fields) < 5 or len(source) < 3 or source[0] not in paths:
            continue
        if source[0] == "cgroup" and "memory" not in source[2].split(","):
            continue
        root, top = PurePosixPath(fields[3]), Path(fields[4])
        path = paths[source[0]]
        # A container may see only its own part of a hierarchy.
        yield source[0], top / (path.relative_to(root) if path.is_relative_to(root) else ""), top


def _paths(text: str) -> Iterator[tuple[str, PurePosixPath]]:
    """The group of each version, out of lines such as "0::/user.slice" and "9:memory:/slurm/job_7"."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield "cgroup2", PurePosixPath(path)
        elif "memory" in controllers.split(","):
            yield "cgroup", PurePosixPath(path)


def _address_bounds(process: Path) -> Iterator[int]:
    """Bytes left by the limit of the address space."""
    with suppress(ImportError, OSError, ValueError):
        import resource  # which Windows does not have

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            used = int((process / "statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            yield max(0, limit - used)
