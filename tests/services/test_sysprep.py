"""The command lines of virt-sysprep and virt-customize, and the words that make none."""

from __future__ import annotations

import pytest

from virtomate.errors import UsageError
from virtomate.services.sysprep import (
    CUSTOMIZE,
    SYSPREP,
    USUAL_OPERATIONS,
    Preparation,
    command_line,
    read_preparation,
)

IMAGES = [("/pool/web.qcow2", "qcow2"), ("/pool/web-data.raw", "raw")]
OPENED = ["--format", "qcow2", "--add", "/pool/web.qcow2", "--format", "raw", "--add", "/pool/web-data.raw"]


def made(preparation: Preparation, host_name: str | None = "web", *, runs_commands: bool = True) -> list[str]:
    """Return the command line without the program and its images."""
    words = command_line("/bin/program", preparation, IMAGES, host_name, runs_commands=runs_commands)
    assert words[: 1 + len(OPENED)] == ["/bin/program", *OPENED]
    return words[1 + len(OPENED) :]


def test_usual_operations_delete_nothing_of_users() -> None:
    """The usual operations are about identity alone: no log, mail, crontab, history, account or password."""
    assert not {
        *("logfiles", "mail-spool", "cron-spool", "bash-history", "ssh-userdir", "user-account", "tmp-files"),
        *("backup-files", "ca-certificates", "firewall-rules", "net-nmconn", "kerberos-data", "samba-db-log"),
    } & set(USUAL_OPERATIONS)


def test_usual_command_line() -> None:
    """The guest gets new SSH keys at once if its programs run here; else it makes them itself, or is told to."""
    usual = ["--operations", ",".join(USUAL_OPERATIONS), "--hostname", "web"]
    preparation = read_preparation("", ())

    assert preparation is not None
    words = made(preparation)
    assert (words[:4], words[4], words[6:]) == (usual, "--run-command", ["--no-logfile", "--selinux-relabel"])
    assert "ssh-keygen -q -A" in words[5]
    assert made(preparation, runs_commands=False) == [*usual, "--selinux-relabel"]


@pytest.mark.parametrize(
    ("operations", "may_customize"),
    [
        ("machine-id", False),
        ("machine-id,customize", True),
        ("defaults", True),
        ("defaults,-customize", False),
        ("all,-ssh-userdir", True),
        ("-customize,customize", True),
    ],
)
def test_chosen_operations(operations: str, may_customize: bool) -> None:
    """Chosen operations are passed on as they are; a host name is an operation, too."""
    preparation = read_preparation(operations, ())

    assert preparation is not None
    assert (preparation.may_customize, preparation.gives_host_name) == (may_customize, may_customize)
    more = ["--hostname", "web", "--selinux-relabel"] if may_customize else []
    assert made(preparation) == ["--operations", operations, *more]


def test_customize() -> None:
    """virt-customize gets the words of the user, and a host name only if it was asked for."""
    preparation = read_preparation(None, ["--write '/etc/motd:a b' --network", "--run-command=reboot"])

    assert preparation == Preparation(CUSTOMIZE, (), ("--write", "/etc/motd:a b", "--network", "--run-command=reboot"))
    assert made(preparation, None) == list(preparation.arguments)
    assert made(preparation)[:2] == ["--hostname", "web"]
    assert not preparation.gives_host_name


def test_relabelling_is_left_to_the_user_who_speaks_of_it() -> None:
    """The option of the user stands alone."""
    preparation = read_preparation("", ["--no-selinux-relabel"])

    assert preparation is not None
    assert [word for word in made(preparation) if "relabel" in word] == ["--no-selinux-relabel"]


def test_nothing_is_asked_for() -> None:
    """Without either option there is no preparation, and an option for users is one of virt-sysprep."""
    assert read_preparation(None, ()) is None
    found = read_preparation("user-account,customize", ["--remove-user-accounts bob"])
    assert found is not None
    assert (found.program, found.arguments) == (SYSPREP, ("--remove-user-accounts", "bob"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--add /dev/sda", "'--add'"),
        ("-a /dev/sda", "'-a'"),
        ("-adisk", "'-adisk'"),
        ("-d other", "'-d'"),
        ("--domain=other", "'--domain=other'"),
        ("--doma other", "'--doma'"),
        ("--touch /x --connect qemu:///system", "'--connect'"),
        ("--format raw", "'--format'"),
        ("--operations all", "'--operations'"),
        ("--dry-run", "'--dry-run'"),
        ("--update=yes", "'--update=yes'"),
        ("nginx", "'nginx'"),
        ("--", "'--'"),
        ("--install", "'--install' in --customize has no value"),
        ("--remove-user-accounts bob", "'--remove-user-accounts'"),
        ("--hostname web", "expected is --hostname itself"),
        ("--hostname=web", "expected is --hostname itself"),
        ("--write 'open", "not understood as words of a shell"),
        (" ", "--customize is empty"),
    ],
)
def test_words_that_would_open_other_disks(arguments: str, message: str) -> None:
    """Only options that change the guest are passed on: none that names a disk or domain, however it is written."""
    with pytest.raises(UsageError) as caught:
        read_preparation(None, [arguments])

    assert message in caught.value.message
