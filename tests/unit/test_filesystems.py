"""Which file system a path lies on, by the table of mounts."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from orchestrator.filesystems import is_network, kind_of


class Mount(NamedTuple):
    """What psutil tells of a mounted file system, as far as it is used."""

    mountpoint: str
    fstype: str


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what is mounted where."""

    def mounted(*pairs: tuple[Path | str, str]) -> None:
        table = [Mount(str(folder), kind) for folder, kind in pairs]

        def partitions(all: bool = False) -> list[Mount]:  # noqa: A002  (psutil's own word)
            assert all  # else psutil leaves out network file systems
            return table

        monkeypatch.setattr(psutil, "disk_partitions", partitions)

    return mounted


def test_a_path_lies_on_the_nearest_mount_above_it(tmp_path: Path, mounts: Callable[..., None]) -> None:
    home = tmp_path / "home"
    (home / "me" / "runs").mkdir(parents=True)
    mounts(("/", "ext4"), (home, "nfs4"), (home / "me" / "runs", "lustre"))
    assert kind_of(tmp_path) == "ext4"
    assert kind_of(home) == "nfs4"
    assert kind_of(home / "me") == "nfs4"
    assert kind_of(home / "me" / "runs") == "lustre"


def test_a_folder_whose_name_begins_alike_is_another(tmp_path: Path, mounts: Callable[..., None]) -> None:
    (tmp_path / "home2").mkdir()
    (tmp_path / "home").mkdir()
    mounts(("/", "ext4"), (tmp_path / "home", "nfs4"))
    assert kind_of(tmp_path / "home2") == "ext4"


def test_a_path_that_is_not_there_yet_lies_where_it_will_be(tmp_path: Path, mounts: Callable[..., None]) -> None:
    (tmp_path / "home").mkdir()
    mounts(("/", "ext4"), (tmp_path / "home", "nfs4"))
    assert kind_of(tmp_path / "home" / "new" / "deeper" / "orc.db") == "nfs4"
    assert kind_of(tmp_path / "elsewhere" / "orc.db") == "ext4"


def test_a_link_lies_where_it_leads(tmp_path: Path, mounts: Callable[..., None]) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "link").symlink_to("scratch")
    mounts(("/", "ext4"), (tmp_path / "scratch", "lustre"))
    assert kind_of(tmp_path / "link") == "lustre"
    assert kind_of(tmp_path / "link" / "new" / "file") == "lustre"


def test_a_relative_path_counts_from_here(
    tmp_path: Path, mounts: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mounts(("/", "ext4"), (tmp_path, "beegfs"))
    assert kind_of(Path()) == kind_of(Path("new/orc.db")) == "beegfs"


def test_what_was_mounted_last_over_a_folder_counts(tmp_path: Path, mounts: Callable[..., None]) -> None:
    mounts(("/", "ext4"), (tmp_path, "autofs"), (tmp_path, "nfs4"))
    assert kind_of(tmp_path) == "nfs4"


def test_a_table_without_the_root_says_unknown(tmp_path: Path, mounts: Callable[..., None]) -> None:
    mounts()
    assert kind_of(tmp_path) == "unknown"


def test_this_machines_own_table_knows_proc() -> None:
    assert kind_of(Path("/proc/self")) == "proc"


@pytest.mark.parametrize(
    "kind",
    ["nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs",
     "afs", "panfs", "9p", "wekafs", "NFS4"],
)  # fmt: skip
def test_shared_file_systems_are_network_ones(kind: str) -> None:
    assert is_network(kind)


@pytest.mark.parametrize("kind", ["fuse.ceph-fuse", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse", "fuse.dfuse"])
def test_rarer_shared_file_systems_are_network_ones_too(kind: str) -> None:
    assert is_network(kind)


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "ext3", "f2fs", "fuse.fuse-overlayfs", "unknown", ""]
)
def test_local_file_systems_are_none(kind: str) -> None:
    assert not is_network(kind)
