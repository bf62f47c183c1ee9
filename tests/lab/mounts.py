"""Mounts that only this process and its children see, and that vanish with them, however they end."""

import ctypes
import os
from pathlib import Path

from tests.lab.programs import require_program, run

CLONE_NEWNS = 0x00020000


# The namespace that this process made, as its inode.
_private: set[int] = set()


def enter_private_mounts() -> None:
    """Move the calling thread, and everything it starts from now on, into a mount namespace of its own.

    Must run before other threads are started that are to see the lab's mounts. Needs root.
    """
    if _namespace() in _private:
        return
    if _private:
        raise RuntimeError("This thread is older than the lab's mounts and does not see them")
    # os.unshare exists from Python 3.12 on only.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Cannot make a private mount namespace: {os.strerror(number)}")
    _private.add(_namespace())
    mount("--make-rprivate", "/")


def _namespace() -> int:
    return Path("/proc/thread-self/ns/mnt").stat().st_ino


def mount(*words: str | Path) -> None:
    """Run the program of this name, see its manual page; never where the machine's own mounts would change."""
    if _namespace() not in _private:
        raise RuntimeError("Refusing to mount outside the lab's private mounts")
    run(require_program("mount", "mount"), *words)


def share(directory: Path) -> None:
    """Make a directory whose later mounts also appear in the namespaces of processes that were started before."""
    mount("--bind", directory, directory)
    mount("--make-shared", directory)


def unmount(directory: Path) -> None:
    """Undo a mount, at once for everyone who does not have it open, and for the others when they close it."""
    run(require_program("umount", "mount"), "--lazy", directory)


def make_file_system(kind: str, image: Path, size_bytes: int) -> None:
    """Write an empty file system of the given kind into a sparse file."""
    commands: dict[str, tuple[str, str, list[str]]] = {
        # Without reserved blocks, so that "available" is what an ordinary writer gets.
        "ext4": ("mkfs.ext4", "e2fsprogs", ["-q", "-F", "-m", "0"]),
        "xfs": ("mkfs.xfs", "xfsprogs", ["-q", "-f"]),
        "btrfs": ("mkfs.btrfs", "btrfs-progs", ["-q", "-f"]),
    }
    program, package, options = commands[kind]
    with image.open("xb") as file:
        file.truncate(size_bytes)
    run(require_program(program, package), *options, image)


def mount_image(image: Path, directory: Path) -> None:
    """Mount a file system image; its loop device goes away with the mount."""
    directory.mkdir(exist_ok=True)
    mount("--options", "loop", image, directory)
