"""What virt-sysprep and virt-customize change in the guests of clones, and the command lines of both.

Sources: https://libguestfs.org/virt-sysprep.1.html and https://libguestfs.org/virt-customize.1.html
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from virtomate.errors import UnsupportedError, UsageError
from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SYSPREP, CUSTOMIZE = "virt-sysprep", "virt-customize"

# What makes two guests one and the same to others, and nothing that somebody wrote or set up. Of its own accord,
# virt-sysprep also deletes logs, mail, crontabs, caches, histories and registrations.
USUAL_OPERATIONS = (
    *("dhcp-client-state", "machine-id", "net-hostname", "net-hwaddr", "ssh-hostkeys", "udev-persistent-net"),
    "customize",
)
_CUSTOMIZE = "customize"
# `defaults` and `all` stand for groups, in both of which this operation is.
_WITH_CUSTOMIZE = frozenset({_CUSTOMIZE, "defaults", "all"})
_GROUPS = frozenset({"defaults", "all"})
_OPERATION = r"-?[a-z0-9][a-z0-9-]*"
_LIST_SECONDS = 60

# Without the keys that virt-sysprep deletes, the SSH server of Debian and Ubuntu does not start.
_NEW_SSH_KEYS = "if command -v ssh-keygen >/dev/null && test -d /etc/ssh; then ssh-keygen -q -A; fi"

# The options of both programs that change a guest: without a value, with a value, and with a value for virt-sysprep
# alone. The others name disks and domains, ask questions, or say how the program tells of its work.
_FLAGS = frozenset(
    {
        *("--network", "--no-logfile", "--no-network", "--no-selinux-relabel", "--selinux-relabel", "--sm-register"),
        *("--sm-remove", "--sm-unregister", "--update", "--inject-blnsvr"),
    }
)
_VALUES = frozenset(
    {
        *("--append-line", "--chmod", "--chown", "--commands-from-file", "--copy", "--copy-in", "--delete", "--edit"),
        *("--firstboot", "--firstboot-command", "--firstboot-install", "--hostname", "--inject-qemu-ga"),
        *("--inject-virtio-win", "--install", "--key", "--link", "--memsize", "-m", "--mkdir", "--move", "--password"),
        *("--password-crypto", "--root-password", "--run", "--run-command", "--scrub", "--sm-attach"),
        *("--sm-credentials", "--smp", "--ssh-inject", "--tar-in", "--timezone", "--touch", "--truncate"),
        *("--truncate-recursive", "--uninstall", "--upload", "--write"),
    }
)
_VALUES_OF_SYSPREP = frozenset(
    {"--keep-user-accounts", "--mount-options", "--remove-user-accounts", "--script", "--scriptdir"}
)
_HOST_NAME = "--hostname"
_RELABELS = frozenset({"--selinux-relabel", "--no-selinux-relabel"})


class Preparation(NamedTuple):
    """What is changed in the guest of each clone.

    Attributes:
        program: Name of the program, virt-sysprep or virt-customize.
        operations: Operations of virt-sysprep that were asked for; empty for the usual operations.
        arguments: Options of virt-customize that were asked for.
    """

    program: str
    operations: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    @property
    def option(self) -> str:
        """The option that asks for the program."""
        return f"--{self.program.removeprefix('virt-')}"

    @property
    def gives_host_name(self) -> bool:
        """Whether each clone gets a host name, also where no host name was asked for."""
        return self.program == SYSPREP and self.may_customize

    @property
    def may_customize(self) -> bool:
        """Whether the options of virt-customize count, which are one operation of virt-sysprep."""
        may = self.program == CUSTOMIZE or not self.operations
        for operation in self.operations:
            if operation.removeprefix("-") in _WITH_CUSTOMIZE:
                may = not operation.startswith("-")
        return may


def read_preparation(operations: str | None, arguments: Sequence[str]) -> Preparation | None:
    """Return what is to be changed, or None if nothing is.

    Args:
        operations: The value of --sysprep, empty for the usual operations; None without --sysprep.
        arguments: The values of --customize.

    Raises:
        UsageError: A value is not understood.
    """
    words = tuple(word for text in arguments for word in _split(text))
    if operations is None and not arguments:
        return None
    listed = tuple(operations.split(",")) if operations else ()
    for operation in listed:
        if re.fullmatch(_OPERATION, operation) is None:
            raise UsageError(
                f"'{operation}' in --sysprep={operations} is not an operation; expected: names from `{SYSPREP} "
                "--list-operations` with commas between, such as machine-id,ssh-hostkeys,customize"
            )
    preparation = Preparation(CUSTOMIZE if operations is None else SYSPREP, listed, words)
    options = list(_options(words, is_sysprep=operations is not None))
    if arguments and not preparation.may_customize:
        raise UsageError(f"--customize needs the operation customize in --sysprep={operations}")
    if _HOST_NAME in options:
        raise UsageError("--hostname in --customize would give all clones one name: expected is --hostname itself")
    return preparation


def _split(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--customize '{text}' is not understood as words of a shell: {error}") from error
    if not words:
        raise UsageError("--customize is empty; expected: options of virt-customize, such as '--install nginx'")
    return words


def _options(words: Sequence[str], *, is_sysprep: bool) -> Iterator[str]:
    """Yield the names of the options; raise UsageError for words that are no option which changes a guest."""
    left = iter(words)
    for word in left:
        name, equals, _ = word.partition("=")
        takes_value = name in _VALUES or (is_sysprep and name in _VALUES_OF_SYSPREP)
        if not takes_value and (equals or name not in _FLAGS):
            raise UsageError(
                f"'{word}' in --customize is not an option of {CUSTOMIZE} that changes a guest, or not in full; "
                "expected: options such as --install nginx, --upload FILE:PLACE or --run-command 'COMMAND'"
            )
        if takes_value and not equals and next(left, None) is None:
            raise UsageError(f"'{word}' in --customize has no value")
        yield name


def find_program(preparation: Preparation) -> str:
    """Return the path of the program; raise UnsupportedError if it is not installed."""
    import shutil  # noqa: PLC0415 - few clones are prepared

    path = shutil.which(preparation.program)
    if path is None:
        raise UnsupportedError(
            f"{preparation.option} needs {preparation.program}, which is not installed on this host",
            hint="It is part of guestfs-tools, on older systems of libguestfs-tools. Or use --seed, which needs no "
            "access to the volumes.",
        )
    return path


def check_operations(program: str, preparation: Preparation) -> None:
    """Raise UsageError for an operation that virt-sysprep does not have."""
    if not preparation.operations:
        return
    known = _known_operations(program)
    for operation in preparation.operations:
        if known and operation.removeprefix("-") not in known | _GROUPS:
            raise UsageError(
                f"'{operation}' in --sysprep is not an operation of {SYSPREP} on this host; `{SYSPREP} "
                "--list-operations` lists the operations"
            )


def _known_operations(program: str) -> frozenset[str]:
    """Return the operations of virt-sysprep, none where it does not tell."""
    import subprocess  # noqa: PLC0415 - few clones are prepared

    try:
        run = subprocess.run(  # noqa: S603 - the program is virt-sysprep
            [program, "--list-operations"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_LIST_SECONDS,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return frozenset()
    if run.returncode:
        return frozenset()
    return frozenset(line.split()[0] for line in run.stdout.splitlines() if line.strip())


def command_line(
    program: str,
    preparation: Preparation,
    images: Sequence[tuple[str, str]],
    host_name: str | None,
    *,
    runs_commands: bool,
) -> list[str]:
    """Return the words that prepare one clone.

    Args:
        program: Path of the program.
        preparation: What is changed.
        images: Paths and formats of the images of the clone, in the order of its disks.
        host_name: Host name of the guest, None to leave the host name as it is.
        runs_commands: Whether programs of the guest can run on this host.
    """
    words = [program]
    for path, format_ in images:
        words += ["--format", format_, "--add", path]
    if preparation.program == SYSPREP:
        words += ["--operations", ",".join(preparation.operations or USUAL_OPERATIONS)]
    if host_name is not None and preparation.may_customize:
        words += [_HOST_NAME, host_name]
    if preparation.program == SYSPREP and not preparation.operations and runs_commands:
        words += ["--run-command", _NEW_SSH_KEYS, "--no-logfile"]
    if preparation.program == SYSPREP and preparation.may_customize and not _RELABELS & set(preparation.arguments):
        # new files without a label would be unreadable for the services of a guest with SELinux
        words.append("--selinux-relabel")
    return [*words, *preparation.arguments]
