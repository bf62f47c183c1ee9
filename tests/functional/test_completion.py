"""What a person gets who presses TAB in bash, zsh and fish."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Self

import libvirt
import pexpect
import pytest

import virtomate as virtomate_package
from tests.functional.runs import is_alive, wait_for
from tests.lab import Lab, Program, disk, domain
from tests.lab.images import MIB

SHELLS = ("bash", "zsh", "fish")
NAMES = [
    "my vm",
    "a:b",
    "c$d",
    "it's",
    'say "so"',
    "größe",
    "x\\y",
    "sp;lit",
    "jo@e",
    "-dash",
    "~tilde",
    "twin-1",
    "twin-2",
]

ARGUMENTS = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}
SETUP = {
    "bash": "source <(virtomate completion bash)",
    "zsh": "unsetopt prompt_sp; autoload -U compinit; compinit -D -u; source <(virtomate completion zsh)",
    "fish": "function fish_prompt; end; virtomate completion fish | source",
}

# The program, but more patient where a busy machine takes its time to find names.
PATIENT = (
    "from virtomate import __main__; from virtomate.services import completion;"
    "completion._LIMIT_SECONDS = 60; __main__.main()"
)

# Completes as the program does. When it is run it only keeps its arguments, and says so.
WRAPPER = """\
#!/bin/sh
if [ -n "$_VIRTOMATE_COMPLETE" ] || [ "$1" = completion ]; then
    exec '{python}' -c '{program}' "$@"
fi
printf '%s\\0' "$@" >'{arguments}'
echo "--""ran--"
"""


# An ssh that never connects, and keeps what it could do about it.
SSH = """\
#!/bin/sh
(: </dev/tty) 2>/dev/null && touch '{directory}/terminal'
echo "$*" >'{directory}/options'
echo $$ >'{directory}/pid.new' && mv '{directory}/pid.new' '{directory}/pid'
exec sleep 600
"""


class Shell:
    """An interactive shell in a pseudo-terminal, in which `virtomate` completes."""

    def __init__(
        self, name: str, virtomate: Program, programs: Path, setup: str = "", arguments: Sequence[str] | None = None
    ) -> None:
        program = shutil.which(name)
        if program is None:
            pytest.skip(f"{name} is not installed")
        self._arguments = virtomate.directory / "arguments"
        programs.mkdir(exist_ok=True)
        wrapper = programs / "virtomate"
        wrapper.write_text(WRAPPER.format(python=sys.executable, program=PATIENT, arguments=self._arguments))
        wrapper.chmod(0o755)
        environment = virtomate.env({"TERM": "xterm", "PS1": "", "PROMPT": ""})
        environment["PATH"] = f"{programs}:{environment['PATH']}"
        self.child = pexpect.spawn(
            program,
            [*(ARGUMENTS[name] if arguments is None else arguments), "-i"],
            env=environment,
            cwd=str(virtomate.directory),
            dimensions=(24, 200),
            encoding="utf-8",
            timeout=120,
        )
        self.child.sendline(setup or SETUP[name])
        self.run("virtomate set up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.close(force=True)

    def run(self, keys: str) -> list[str]:
        """Press these keys and Enter; return the arguments with which virtomate was called."""
        self.child.send(f"{keys}\r")
        self.child.expect_exact("--ran--")
        return self._arguments.read_text(encoding="utf-8").split("\0")[:-1]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, virtomate: Program) -> Iterator[Shell]:
    """Each of the shells."""
    with Shell(request.param, virtomate, virtomate.directory / "programs") as shell:
        yield shell


def quoted(uri: str) -> str:
    """The URI as all shells take it."""
    return f"'{uri}'"


@pytest.fixture
def named(lab: Lab) -> str:
    """The lab's URI, with a domain and a storage pool of each name."""
    for name in NAMES:
        lab.define(domain(name))
    lab.make_pool("my pool")
    return quoted(lab.uri)


def test_names(shell: Shell, named: str) -> None:
    """The names of domains and pools are completed as one word each, whatever is in them, with any quotation marks."""
    before = f"virtomate -c {named} domain-clone "
    after = f"virtomate domain clone -c {named} "

    typed = {
        f"{before}my": "my vm",
        f"{before}my\\ v": "my vm",
        f'{before}"my v': "my vm",
        f"{before}'m": "my vm",
        f"{after}a": "a:b",
        f"{after}a:": "a:b",
        f"{before}c": "c$d",
        f"{before}'c": "c$d",
        f'{before}"c': "c$d",
        f"{before}it": "it's",
        f"{before}say": 'say "so"',
        f"{before}gr": "größe",
        f"{before}x": "x\\y",
        f"{before}sp": "sp;lit",
        f"{before}jo@": "jo@e",
        f"{before}\\~": "~tilde",
        f"{before}tw\t2": "twin-2",
        f"{before}-- -d": "-dash",
        f"virtomate volume-list -c {named} my": "my pool",
    }

    completed = {keys: shell.run(f"{keys}\t")[-1] for keys in typed}
    assert completed == typed


def test_commands_options_and_values(shell: Shell) -> None:
    """Commands and values of options are completed in both spellings; so are options and URIs."""
    typed = {
        "virtomate domain-cl": ["domain-clone"],
        "virtomate -c qemu:///system domain-cl": ["-c", "qemu:///system", "domain-clone"],
        "virtomate -q comp\tz": ["-q", "completion", "zsh"],
        "virtomate domain cl": ["domain", "clone"],
        "virtomate domain-clone --tran\tst": ["domain-clone", "--transfer", "stream"],
        "virtomate domain-clone --mode l": ["domain-clone", "--mode", "linked"],
        "virtomate domain-clone --mode s": ["domain-clone", "--mode", "shallow"],
        "virtomate domain-clone --mode a": ["domain-clone", "--mode", "auto"],
        "virtomate -c qemu:///system domain-clone --mode=r": [
            *("-c", "qemu:///system", "domain-clone"),
            "--mode=reflink",
        ],
        "virtomate --log=w": ["--log=warning"],
        "virtomate --progress j": ["--progress", "json"],
        "virtomate -c qemu:///sy": ["-c", "qemu:///system"],
        "virtomate --connect=qemu:///se": ["--connect=qemu:///session"],
    }

    assert {keys: shell.run(f"{keys}\t") for keys in typed} == typed


def test_what_is_offered(lab: Lab, virtomate: Program) -> None:
    """All domains are offered but those with control characters; for deletion, clones that are not in the line yet."""
    path = lab.pool.raw("src.raw", MIB)
    original = lab.define(domain("src", disks=[disk(path, "raw")]))
    lab.define(domain("a\x7fb"))
    for name in ("one", "two"):
        assert virtomate("domain-clone", "src", name).status == 0

    def offered(*words: str) -> list[str]:
        arguments = virtomate.argv(*words, "")
        arguments[1:3] = ["-c", PATIENT]
        environment = virtomate.env({"_VIRTOMATE_COMPLETE": "zsh_complete"})
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done
        return [line.split("\t")[1] for line in done.stdout.splitlines()]

    assert offered("domain-clone") == ["one", "src", "two"]
    assert offered("guest-run") == ["one", "src", "two"]
    assert offered("domain-delete") == ["one", "two"]
    assert offered("domain-delete", "two") == ["one"]
    assert offered("domain-delete", "t*") == ["one", "two"]
    assert offered("domain-delete", "--clones-of") == ["one", "src", "two"]
    assert offered("domain-verify", "two") == ["one"]
    assert offered("volume-list") == sorted(lab.pools)
    assert offered("domain-flatten", "one", "--disk") == ["vda"]
    assert offered("domain-flatten", "--disk") == []
    assert offered("domain-rebase", "one", "--disk") == ["vda"]
    assert f"{lab.pool.name}/src.raw" in offered("domain-rebase", "one", "--base")
    assert virtomate("domain-template", "two").status == 0
    assert offered("domain-template", "--undo") == ["two"]
    assert offered("domain-template") == ["one", "src", "two"]

    for snapshot in ("s 2", "s1"):
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        original.snapshotCreateXML(f"<domainsnapshot><name>{snapshot}</name></domainsnapshot>", flags)
    assert offered("domain-clone", "src", "new", "--snapshot") == ["s 2", "s1"]
    assert offered("domain-clone", "one", "--snapshot") == []
    assert offered("domain-clone", "--snapshot") == []


def test_scripts_that_are_installed(virtomate: Program) -> None:
    """Put where zsh and fish look for them, under the names that the wheel gives them, the scripts work as well."""
    scripts = Path(virtomate_package.__file__).parent / "cli" / "scripts"
    functions = virtomate.directory / "site-functions"
    fish = virtomate.directory / "home" / "data_home" / "fish"
    (fish / "generated_completions").mkdir(parents=True)  # or fish makes it, from all manual pages of the system
    vendor = fish / "vendor_completions.d"
    for name, file in (("zsh", functions / "_virtomate"), ("fish", vendor / "virtomate.fish")):
        file.parent.mkdir(parents=True)
        shutil.copy(scripts / f"virtomate.{name}", file)
    # Without its configuration fish looks nowhere.
    arguments = {"zsh": None, "fish": ()}
    setups = {
        "zsh": f"unsetopt prompt_sp; fpath=({functions} $fpath); autoload -U compinit; compinit -D -u",
        "fish": "function fish_prompt; end",
    }

    for name, setup in setups.items():
        with Shell(name, virtomate, virtomate.directory / "programs", setup, arguments[name]) as shell:
            assert shell.run("virtomate domain-cl\t") == ["domain-clone"]
            assert shell.run("virtomate domain-clone --mode li\t") == ["domain-clone", "--mode", "linked"]


def test_files(shell: Shell, virtomate: Program) -> None:
    """A file is completed as the shell completes files, and only where one is wanted."""
    (virtomate.directory / "some file.img").touch()
    (virtomate.directory / "linked").mkdir()
    (virtomate.directory / "home" / ".file").touch()

    assert shell.run("virtomate volume-import so\t") == ["volume-import", "some file.img"]
    assert shell.run("virtomate volume import ./'some f\t") == ["volume", "import", "./some file.img"]
    assert shell.run("virtomate volume import ~/.fi\t")[-1].endswith("/home/.file")
    assert shell.run("virtomate volume-import some\\ file.img so\t")[2:] == ["so"]
    assert shell.run("virtomate domain-clone --mode li\t") == ["domain-clone", "--mode", "linked"]


def test_trouble_completes_nothing(shell: Shell, virtomate: Program, tmp_path: Path) -> None:
    """Where libvirt does not answer, TAB changes nothing and prints nothing; nobody is asked, and nothing goes on."""
    ssh = virtomate.directory / "programs" / "ssh"
    ssh.write_text(SSH.format(directory=tmp_path))
    ssh.chmod(0o755)
    wrapper = ssh.with_name("virtomate")
    wrapper.write_text(wrapper.read_text().replace(f"-c '{PATIENT}'", "-m virtomate"))
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        uris = [
            "qemu+unix:///system?socket=/nonexistent/socket",
            f"qemu+tcp://127.0.0.1:{silent.getsockname()[1]}/system",
            "nonsense:///",
            "qemu+ssh://root@127.0.0.1/system",
        ]
        for uri in uris:
            assert shell.run(f"virtomate domain-clone -c {quoted(uri)} my\t") == ["domain-clone", "-c", uri, "my"]
            assert "rror" not in str(shell.child.before)

    # A busy machine may not have come to ssh in time.
    while not (tmp_path / "pid").exists():
        shell.run(f"virtomate domain-clone -c {quoted(uris[-1])} my\t")
    assert "BatchMode=yes" in (tmp_path / "options").read_text()
    assert not (tmp_path / "terminal").exists()
    wait_for(lambda: not is_alive(int((tmp_path / "pid").read_text())), "ssh has ended")
