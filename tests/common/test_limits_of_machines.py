"""The CPUs and the memory that a process may use, however its control groups are laid out."""

from pathlib import Path

import pytest

from handler import machine
from handler.machine import available_cpus, cpu_quotas, memory_left

V2 = "30 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
BLANK = V2.replace("/sys/fs/cgroup rw", r"/sys/fs/cgroup/with\040blank rw")
CPU = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
MEMORY = "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"


def tree(root: Path, mounts: list[str], groups: list[str], files: dict[str, str]) -> Path:
    """A folder that looks as `/` does to a process: its mounts, its control groups, and what lies in them."""
    whole = {"proc/self/mountinfo": "\n".join(mounts), "proc/self/cgroup": "\n".join(groups)} | {
        f"sys/fs/cgroup/{name}": content for name, content in files.items()
    }
    for name, content in whole.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    return root


def v1(quota: str) -> dict[str, str]:
    return {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": "100000"}


def below(folder: str, files: dict[str, str]) -> dict[str, str]:
    return {f"{folder}/{name}": content for name, content in files.items()}


@pytest.mark.parametrize(
    ("mounts", "groups", "files", "expected"),
    [
        ([V2], ["0::/"], {"cpu.max": "150000 100000"}, [1.5]),
        ([V2], ["0::/"], {"cpu.max": "max 100000"}, []),
        ([V2], ["0::/a/b/c"], {"a/b/cpu.max": "200000 100000"}, [2.0]),
        (
            [V2],
            ["0::/a/b"],
            {"a/b/cpu.max": "800000 100000", "a/cpu.max": "50000 100000", "cpu.max": "max 100000"},
            [8.0, 0.5],
        ),
        ([V2], ["0::/../../outside"], {"cpu.max": "100000 50000"}, [2.0]),
        (
            ["30 1 0:1 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw"],
            ["0::/docker/abc/worker"],
            {"worker/cpu.max": "100000 100000", "cpu.max": "400000 100000"},
            [1.0, 4.0],
        ),
        ([CPU], ["4:cpu,cpuacct:/"], below("cpu,cpuacct", v1("250000")), [2.5]),
        ([CPU], ["4:cpu,cpuacct:/"], below("cpu,cpuacct", v1("-1")), []),
        (
            [CPU],
            ["4:cpu,cpuacct:/slurm/job"],
            below("cpu,cpuacct/slurm", v1("300000")) | below("cpu,cpuacct/slurm/job", v1("-1")),
            [3.0],
        ),
        (
            ["32 31 0:29 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"],
            ["4:cpu:/docker/abc", "0::/docker/abc"],
            below("cpu", v1("100000")),
            [1.0],
        ),
        ([BLANK], ["0::/"], {"with blank/cpu.max": "7 1"}, [7.0]),
        ([V2], ["0::/gone"], {}, []),
        ([V2], ["0::/"], {"cpu.max": "nonsense"}, []),
        ([V2], ["0::/"], {"cpu.max": ""}, []),
        ([], [], {"cpu.max": "100000 100000"}, []),
    ],
    ids=[
        "v2", "v2-unlimited", "v2-parent", "v2-every-level", "v2-namespace", "v2-bind", "v1", "v1-unlimited",
        "v1-parent", "v1-docker", "blank", "gone", "nonsense", "empty", "not-mounted",
    ],
)  # fmt: skip
def test_quotas_are_found_at_every_level(tmp_path, mounts, groups, files, expected) -> None:
    assert cpu_quotas(tree(tmp_path, mounts, groups, files)) == expected


@pytest.mark.parametrize(
    ("quotas", "affinity", "expected"),
    [([0.2], 8, 1), ([0.999], 8, 1), ([1.5], 8, 1), ([2.5, 4.0], 8, 2), ([16.0], 4, 4), ([], 3, 3)],
)
def test_whole_cpus_and_at_least_one_are_used(monkeypatch, quotas, affinity, expected) -> None:
    monkeypatch.setattr(machine, "cpu_quotas", lambda: quotas)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(affinity)), raising=False)
    assert available_cpus() == expected


@pytest.mark.parametrize(
    ("mounts", "groups", "files", "expected"),
    [
        (
            [V2],
            ["0::/pod/box"],
            {
                "pod/memory.max": "1000",
                "pod/memory.current": "900",
                "pod/memory.stat": "anon 1\ninactive_file 300",
                "pod/box/memory.max": "max",
                "pod/box/memory.current": "900",
            },
            400,
        ),
        (
            [MEMORY],
            ["4:memory:/box"],
            below("memory/box", {"memory.limit_in_bytes": "500", "memory.usage_in_bytes": "600"}),
            0,
        ),
        (
            [MEMORY],
            ["4:memory:/"],
            below("memory", {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "6"}),
            None,
        ),
    ],
    ids=["v2", "v1-used-up", "v1-unlimited"],
)
def test_memory_is_what_the_tightest_group_leaves(tmp_path, mounts, groups, files, expected) -> None:
    assert memory_left(tree(tmp_path, mounts, groups, files)) == expected


def test_training_takes_no_more_threads_than_the_quota_has_cpus(monkeypatch) -> None:
    import torch

    from training import pipeline

    taken: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(pipeline, "available_cpus", lambda: 2)
    pipeline.use_threads(None)
    pipeline.use_threads(4)
    pipeline.use_threads(8)
    assert taken == [2, 4]
