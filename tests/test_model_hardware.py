"""Machine facts, from recorded trees of /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamaherd import hardware
from llamaherd.errors import ConfigError


def make_tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = {
    "proc/self/cgroup": "0::/user.slice/job\n",
    "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000\n",
    "sys/fs/cgroup/user.slice/cpu.max": "50000 100000\n",
    "sys/fs/cgroup/user.slice/job/memory.max": "500000000\n",
    "sys/fs/cgroup/user.slice/job/memory.current": "400000000\n",
    "sys/fs/cgroup/user.slice/job/memory.stat": "anon 1\ninactive_file 100000000\n",
    "sys/fs/cgroup/user.slice/memory.max": "max\n",
}
V1 = {
    "proc/self/cgroup": "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/\n",
    # The container sees its own group as the root.
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "500000000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "400000000\n",
    "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 100000000\n",
}


@pytest.mark.parametrize("files", [V2, V1], ids=["cgroup v2", "cgroup v1"])
def test_a_container_sees_its_own_limits(tmp_path: Path, files: dict[str, str]) -> None:
    root = make_tree(tmp_path, files)
    assert hardware.available_cpus(root) == 1
    assert hardware.total_memory(root) == 500_000_000
    assert hardware.available_memory(root) == 200_000_000


def test_without_limits_the_machine_counts(tmp_path: Path) -> None:
    unlimited = {
        "proc/self/cgroup": "3:memory:/x\n1:cpu:/x\n",
        "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
    }
    for root in (make_tree(tmp_path / "unlimited", unlimited), tmp_path / "nothing"):
        assert hardware.available_cpus(root) == len(hardware.existing_cores())
        assert hardware.total_memory(root) > 10**8
        assert 0 < hardware.available_memory(root) <= hardware.total_memory(root)


def test_memory_nodes_and_their_cores(tmp_path: Path) -> None:
    base = "sys/devices/system/node"
    root = make_tree(
        tmp_path,
        {f"{base}/node1/cpulist": "4-7,12\n", f"{base}/node0/cpulist": "0-3,8-11\n"},
    )
    assert hardware.numa_nodes(root) == {0: (0, 1, 2, 3, 8, 9, 10, 11), 1: (4, 5, 6, 7, 12)}
    assert hardware.numa_nodes(tmp_path / "nothing") == {}


def test_the_processor_and_its_instruction_sets(tmp_path: Path) -> None:
    text = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx512vnni amx_int8 sse\n"
    facts = hardware.cpu_facts(make_tree(tmp_path, {"proc/cpuinfo": text}))
    assert facts.model == "Some CPU"
    assert facts.isa == ("avx2", "avx512_vnni", "amx_int8")
    assert 1 <= facts.n_physical <= facts.n_logical
    assert hardware.cpu_facts(tmp_path / "nothing").isa == ()


def test_wrong_cores_and_too_many_threads(caplog: pytest.LogCaptureFixture) -> None:
    hardware.validate_affinity((0, 2), 2, existing=(0, 1, 2, 3))
    assert caplog.records == []
    with pytest.raises(ConfigError, match="has core 9, but .* cores 0, 1 only"):
        hardware.validate_affinity((0, 9), existing=(0, 1))
    hardware.validate_affinity((0, 1), 5, existing=(0, 1, 2, 3))
    assert "5 threads on 2 CPUs" in caplog.text
