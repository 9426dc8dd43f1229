"""Which file system a path lies on: locks and memory maps hold on local ones only."""

from pathlib import Path

import psutil

NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "lustre",
        "gpfs",
        "beegfs",
        "cifs",
        "smb3",
        "smbfs",
        "ceph",
        "glusterfs",
        "fuse.glusterfs",
    }
    | {"fuse.sshfs", "fuse.ceph", "afs", "panfs", "pvfs2", "orangefs", "9p", "wekafs", "fuse.juicefs"}
    | {"fuse.ceph-fuse", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse", "fuse.dfuse", "fuse.goofys", "fuse.mount-s3"}
)


def kind_of(path: Path) -> str:
    """The type of the file system that holds ``path`` (which need not exist yet): "ext4", "nfs4", …"""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    real = existing.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    for folder in [real, *real.parents]:
        if folder in mounts:
            return str(mounts[folder])
    return "unknown"


def is_network(kind: str) -> bool:
    """Whether this type of file system is shared over a network."""
    return kind.lower() in NETWORK
