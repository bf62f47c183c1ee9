"""Install the system packages that a nox session needs: ``python3 tests/lab/packages.py GROUP...``.

This runs before any virtual environment exists, so it has nothing but the standard library.
What is installed already is left alone. Where the rights are missing, the command is printed instead and the status
is 1. No daemon is started or restarted.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace

# Otherwise packages start their services, needrestart restarts others, and an upgraded libvirt restarts its daemon.
# systemctl starts and stops nothing when it is told that systemd is offline (https://systemd.io/ENVIRONMENT/).
_ENVIRONMENT = ("env", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_SUSPEND=1", "SYSTEMD_OFFLINE=1")


@dataclass(frozen=True)
class Manager:
    """A package manager: how it is asked and told, and what it calls the packages of each group."""

    query: tuple[str, ...]
    """Prints a line ``installed`` for the name that follows it, if it is."""
    install: tuple[str, ...]
    """Installs the names that follow it."""
    groups: dict[str, str]
    refresh: tuple[str, ...] = ()
    """Brings the lists of packages up to date, where ``install`` does not do that."""

    def wanted(self, groups: list[str]) -> list[str]:
        """Name the packages of these groups."""
        return [name for group in groups for name in self.groups[group].split()]

    def has(self, name: str) -> bool:
        """Tell whether a package is installed completely."""
        answer = subprocess.run([*self.query, name], capture_output=True, text=True, check=False)
        return "installed" in answer.stdout.split()

    def commands(self, names: list[str]) -> list[list[str]]:
        """Compose the commands that install these packages, as root would run them."""
        install = [*_ENVIRONMENT, *self.install, *names]
        return [[*self.refresh], install] if self.refresh else [install]


# Debian 13 and later, where libvirt-daemon-system would add no more than the default network and PolicyKit's rules.
# --no-remove: a package that conflicts with one of the user's is not worth the user's.
_APT = Manager(
    query=("dpkg-query", "--show", "--showformat=${db:Status-Status}\n"),
    refresh=("apt-get", "update"),
    install=("apt-get", "install", "--yes", "--no-install-recommends", "--no-remove"),
    groups={
        "bootstrap": "python3-venv",
        "build": "gcc libvirt-dev pkgconf python3-dev",
        "libvirt": """
            libvirt-clients libvirt-daemon libvirt-daemon-driver-network libvirt-daemon-driver-qemu
            libvirt-daemon-driver-secret libvirt-daemon-driver-storage libvirt-daemon-driver-storage-rbd
            qemu-system-modules-spice
        """,
        "lab": """
            dnsmasq-base ovmf qemu-system-x86 qemu-utils swtpm swtpm-tools xorriso
            binutils btrfs-progs e2fsprogs libwrap0 libwtmpdb0 lvm2 mount openssh-client parted util-linux xfsprogs
            libvirt-daemon-driver-storage-disk libvirt-daemon-driver-storage-logical
            bash fish jq man-db zsh
        """,
        "peers": "virtinst",
        "stress": "debootstrap guestfs-tools tpm2-tools",
    },
)

# Here the drivers are in libvirt-daemon, SPICE is in QEMU's own package, and only libvirt-daemon-system makes the
# directories and the user without which the QEMU driver does not start. OpenSSH's server does without libwtmpdb0.
_APT_BEFORE_SPLIT = replace(
    _APT,
    groups=_APT.groups
    | {
        "libvirt": "libvirt-clients libvirt-daemon-driver-storage-rbd libvirt-daemon-system",
        "lab": " ".join(
            name
            for name in _APT.groups["lab"].split()
            if name != "libwtmpdb0" and not name.startswith("libvirt-daemon-driver-")
        ),
    },
)
_RELEASES_BEFORE_SPLIT = frozenset({"bookworm", "noble"})

_DNF = Manager(
    query=("rpm", "--query", "--queryformat", "installed\n", "--whatprovides"),
    install=("dnf", "install", "--assumeyes", "--setopt=install_weak_deps=False"),
    groups={
        "bootstrap": "python3",
        "build": "gcc libvirt-devel pkgconf-pkg-config python3-devel",
        "libvirt": """
            libvirt-client libvirt-daemon libvirt-daemon-driver-network libvirt-daemon-driver-qemu
            libvirt-daemon-driver-secret libvirt-daemon-driver-storage-core libvirt-daemon-driver-storage-rbd
        """,
        "lab": """
            dnsmasq edk2-ovmf qemu-img qemu-system-x86 swtpm swtpm-tools xorriso
            binutils btrfs-progs e2fsprogs lvm2 openssh-clients parted util-linux xfsprogs
            libvirt-daemon-driver-storage-disk libvirt-daemon-driver-storage-logical
            bash fish jq man-db zsh
        """,
        "peers": "virt-install",
        "stress": "debootstrap guestfs-tools tpm2-tools",
    },
)

_ZYPPER = replace(
    _DNF,
    install=("zypper", "--non-interactive", "install", "--no-recommends"),
    groups=_DNF.groups
    | {
        "lab": """
            dnsmasq qemu-ovmf-x86_64 qemu-spice qemu-tools qemu-x86 swtpm xorriso
            binutils btrfsprogs e2fsprogs lvm2 openssh-clients parted util-linux xfsprogs
            libvirt-daemon-driver-storage-disk libvirt-daemon-driver-storage-logical
            bash fish jq man zsh
        """,
        "stress": "debootstrap guestfs-tools tpm2.0-tools",
    },
)


def _manager() -> Manager | None:
    """Return this system's package manager, if it is one that is known here."""
    managers = {"apt-get": _APT, "dnf": _DNF, "zypper": _ZYPPER}
    manager = next((manager for program, manager in managers.items() if shutil.which(program)), None)
    release = platform.freedesktop_os_release()
    names = {release.get("VERSION_CODENAME"), release.get("UBUNTU_CODENAME")}  # the latter in what derives from Ubuntu
    return _APT_BEFORE_SPLIT if manager is _APT and names & _RELEASES_BEFORE_SPLIT else manager


def _privilege() -> list[str] | None:
    """Return what to put before a command so that root runs it, or None where that is not allowed."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") is None:
        return None
    if sys.stdin.isatty():  # a person can type a password
        return ["sudo"]
    allowed = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    return ["sudo", "-n"] if allowed else None


def _run(commands: list[list[str]]) -> bool:
    """Run commands, and show what the last one wrote only if it failed."""
    for command in commands:
        # An update that fails for one source of many need not keep the packages from being installed.
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
    return done.returncode == 0


def install(groups: list[str]) -> int:
    """Install what is missing of these groups and return the exit status."""
    manager = _manager()
    if manager is None:
        print(f"No apt-get, dnf or zypper here; taken for installed: {' '.join(_APT.wanted(groups))}", file=sys.stderr)
        return 0
    missing = [name for name in manager.wanted(groups) if not manager.has(name)]
    if not missing:
        return 0
    commands = manager.commands(missing)
    privilege = _privilege()
    if privilege is not None:
        print(f"Installing system packages: {' '.join(missing)}", flush=True)
        if _run([[*privilege, *command] for command in commands]):
            return 0
    print("System packages are missing. Install them with", file=sys.stderr)
    print(" && ".join(f"sudo {shlex.join(command)}" for command in commands), file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(install(sys.argv[1:]))
