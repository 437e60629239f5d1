"""Memory limits of control groups, in the files that Linux, Slurm, systemd-run and containers leave."""

from __future__ import annotations

import pytest

from lr_env.children.limits import free_bytes

GIB = 2**30
UNLIMITED_V1 = 9223372036854771712


def machine(folder, groups: str, mounts: list[tuple[str, str, str, str]], limits: dict[str, dict[str, object]]):
    """A machine of 64 GiB with groups; mounts are (root, folder, type, options)."""
    process = folder / "proc"
    process.mkdir()
    (process / "cgroup").write_text(groups)
    lines = [
        f"{number} 1 0:{number} {root} {folder / place} rw - {kind} {kind} {options}\n"
        for number, (root, place, kind, options) in enumerate(mounts, 30)
    ]
    (process / "mountinfo").write_text("".join(lines))
    (folder / "meminfo").write_text(f"MemTotal: 0 kB\nMemAvailable: {64 * GIB // 1024} kB\n")
    for group, files in limits.items():
        (folder / group).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / group / name).write_text(f"{content}\n")
    return process, folder / "meminfo"


def v1(limit: int, used: int, cache: int = 0) -> dict[str, object]:
    return {
        "memory.limit_in_bytes": limit,
        "memory.usage_in_bytes": used,
        "memory.stat": f"cache 5\ninactive_file 1\ntotal_inactive_file {cache}",
    }


def v2(limit: object, used: int, cache: int = 0, high: object = "max") -> dict[str, object]:
    return {"memory.max": limit, "memory.high": high, "memory.current": used, "memory.stat": f"inactive_file {cache}"}


CASES = {
    "none": ("0::/\n", [("/", "cg", "cgroup2", "rw")], {}, 64 * GIB),
    "container, version 2": (
        "0::/\n",
        [("/", "cg", "cgroup2", "rw")],
        {"cg": v2(2 * GIB, GIB, GIB // 2)},
        GIB + GIB // 2,
    ),
    "systemd-run: a group below unlimited ones": (
        "0::/user.slice/run-1.scope\n",
        [("/", "cg", "cgroup2", "rw")],
        {"cg/user.slice": v2("max", 5 * GIB), "cg/user.slice/run-1.scope": v2(GIB, 0)},
        GIB,
    ),
    "a limit above an unlimited group": (
        "0::/slurm/job_7/step_0\n",
        [("/", "cg", "cgroup2", "rw")],
        {"cg/slurm/job_7": v2(3 * GIB, GIB), "cg/slurm/job_7/step_0": v2("max", GIB)},
        2 * GIB,
    ),
    "what is throttled above a high mark": (
        "0::/a\n",
        [("/", "cg", "cgroup2", "rw")],
        {"cg/a": v2(8 * GIB, 0, high=4 * GIB)},
        4 * GIB,
    ),
    "Slurm, version 1": (
        "11:cpu,cpuacct:/other\n9:memory:/slurm/uid_0/job_7\n1:name=systemd:/\n0::/\n",
        [("/", "cpu", "cgroup", "rw,cpu,cpuacct"), ("/", "mem", "cgroup", "rw,memory")],
        {"mem/slurm": v1(UNLIMITED_V1, 0), "mem/slurm/uid_0/job_7": v1(GIB, GIB // 4, GIB // 8)},
        GIB - GIB // 8,
    ),
    "Docker, version 1, that sees its own part alone": (
        "9:memory:/docker/abc\n",
        [("/docker/abc", "mem", "cgroup", "rw,memory")],
        {"mem": v1(GIB, 0)},
        GIB,
    ),
    "used up": ("0::/a\n", [("/", "cg", "cgroup2", "rw")], {"cg/a": v2(GIB, 2 * GIB)}, 0),
    "nonsense": ("what?\n0::/a\n", [("/", "cg", "cgroup2", "rw")], {"cg/a": v2("many", 1)}, 64 * GIB),
}


@pytest.mark.parametrize("name", CASES)
def test_the_tightest_limit_counts(name, tmp_path):
    groups, mounts, limits, expected = CASES[name]
    assert free_bytes(*machine(tmp_path, groups, mounts, limits)) == expected


def test_a_limit_of_the_address_space_counts(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    process, memory = machine(tmp_path, "", [], {})
    (process / "statm").write_text("1000 1 1 1 0 1 0\n")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (GIB, GIB))
    assert free_bytes(process, memory) == GIB - 1000 * resource.getpagesize()


def test_this_machine_has_some():
    assert free_bytes() > 0
