"""Files and sockets that get a path of the clone's own."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest

from tests.definition.trees import canonical
from virtomate.definition import codec
from virtomate.definition.rewrite.unshared import CHARACTER_DEVICES, own_paths
from virtomate.output.messages import sentences

if TYPE_CHECKING:
    from virtomate.definition.rewrite.unshared import Outcome

PLACES = {
    **{
        f"{kind} {type_}": f"<{kind} type='{type_}'><source path='PATH' append='on'/></{kind}>"
        for kind in CHARACTER_DEVICES
        if kind != "rng"
        for type_ in ("file", "pipe")
    },
    **{
        f"{kind} socket": f"<{kind} type='unix'><source mode='bind' path='PATH'/><target name='x'/></{kind}>"
        for kind in CHARACTER_DEVICES
        if kind != "rng"
    },
    **{
        f"{kind} log file": f"<{kind} type='pty'><log file='PATH' append='off'/></{kind}>"
        for kind in CHARACTER_DEVICES
        if kind != "rng"
    },
    "rng socket": "<rng><backend model='egd' type='unix'><source mode='bind' path='PATH'/></backend></rng>",
    "rng file": "<rng><backend model='egd' type='file'><source path='PATH'/></backend></rng>",
    "rng log file": "<rng><backend model='egd' type='udp'><log file='PATH'/></backend></rng>",
    "audio file": "<audio id='1' type='file' path='PATH'/>",
    "pstore file": "<pstore backend='acpi-erst'><path>PATH</path><size unit='KiB'>8</size></pstore>",
    "passt log file": "<interface type='user'><backend type='passt' logFile='PATH'/></interface>",
}


def apply(devices: str, source: str = "web", clone: str = "db") -> Outcome:
    """The outcome for a definition with these devices, which stays as it is."""
    domain = codec.parse_definition(f"<domain><devices>{devices}</devices></domain>").domain
    untouched = copy.deepcopy(domain)

    outcome = own_paths(domain, source, clone)

    assert domain == untouched
    return outcome


def devices_of(outcome: Outcome) -> object:
    """What the outcome's devices mean."""
    return canonical(codec.unparse(outcome.domain, "domain"))


def expected(devices: str) -> object:
    """What these devices mean."""
    return canonical(f"<domain><devices>{devices}</devices></domain>")


@pytest.mark.parametrize("what", PLACES)
def test_place(what: str) -> None:
    """Each kind of place gets the clone's path where the original's name is in it, and a warning otherwise."""
    text = PLACES[what]

    renamed = apply(text.replace("PATH", "/var/log/web-1.log"))
    kept = apply(text.replace("PATH", "/var/log/serial.log"))

    assert devices_of(renamed) == expected(text.replace("PATH", "/var/log/db-1.log"))
    assert (sentences(renamed.changes), renamed.warnings) == ([f"{what}: /var/log/db-1.log"], ())
    assert devices_of(kept) == expected(text.replace("PATH", "/var/log/serial.log"))
    assert kept.changes == ()
    assert sentences(kept.warnings) == [f"{what} '/var/log/serial.log' is shared with the original"]


@pytest.mark.parametrize(
    ("source", "path", "own"),
    [
        ("web", "/var/log/web", "/var/log/db"),
        ("web", "/var/log/web-1.log", "/var/log/db-1.log"),
        ("web", "/var/log/web_1.log", "/var/log/db_1.log"),
        ("web", "/var/log/web.serial", "/var/log/db.serial"),
        ("web", "/var/log/serial-web", "/var/log/serial-db"),
        ("web", "/var/log/serial.web.log", "/var/log/serial.db.log"),
        ("web", "/run/web/x.sock", "/run/db/x.sock"),
        ("web", "/run/web.d/x.sock", "/run/db.d/x.sock"),
        ("web", "web.log", "db.log"),
        ("web", "/web", "/db"),
        ("web", "/var/log/web-web.log", "/var/log/db-db.log"),
        # a directory above may be shared by many, and need not exist under another name
        ("web", "/home/web/vm/web.log", "/home/web/vm/db.log"),
        ("web", "/srv/web/vm/web/log", "/srv/web/vm/db/log"),
        ("web", "/var/log/webserver.log", None),
        ("web", "/var/log/myweb.log", None),
        ("web", "/var/log/web2.log", None),
        ("web", "/var/log/WEB.log", None),
        ("web", "/var/log/web log", None),
        ("web", "/var/log/serial.log", None),
        ("web", "", None),
        ("web-1", "/var/log/web-1.log", "/var/log/db.log"),
        ("web-1", "/var/log/web-10.log", None),
        ("a.b", "/log/a.b.log", "/log/db.log"),
        ("a.b", "/log/axb.log", None),
        ("a+(b)[c]*$^|\\", "/log/a+(b)[c]*$^|\\.log", "/log/db.log"),
        ("my web & <1>", "/log/my web & <1>.log", "/log/db.log"),
        ("my web", "/log/my  web.log", None),
        ("ü\U0001f600", "/log/ü\U0001f600-1.log", "/log/db-1.log"),
    ],
)
def test_name_as_a_word(source: str, path: str, own: str | None) -> None:
    """The name counts where it is a word of the last component that has it, whatever characters it is made of."""
    domain: codec.Document = {"devices": {"audio": [{"@type": "file", "@path": path}]}}

    outcome = own_paths(domain, source, "db")

    assert outcome.domain == {"devices": {"audio": [{"@type": "file", "@path": own or path}]}}
    assert bool(outcome.changes) is (own is not None)
    assert bool(outcome.warnings) is (own is None)


@pytest.mark.parametrize("clone", [r"\1", r"\g<0>", "web-2", "web", "a b", "ü"])
def test_name_of_the_clone_is_taken_as_it_is(clone: str) -> None:
    """The clone's name is no pattern, and may contain the original's."""
    outcome = own_paths({"devices": {"audio": [{"@type": "file", "@path": "/l/web.wav"}]}}, "web", clone)

    assert outcome.domain == {"devices": {"audio": [{"@type": "file", "@path": f"/l/{clone}.wav"}]}}


def test_several_of_one_kind() -> None:
    """Every device of a kind is looked at, and a device with a log file has two paths."""
    outcome = apply(
        "<serial type='file'><source path='/l/web-a'/><log file='/l/web-b'/></serial>"
        "<serial type='file'><source path='/l/c'/></serial><serial type='file'><source path='/l/web-d'/></serial>"
    )

    assert sentences(outcome.changes) == ["serial file: /l/db-a", "serial log file: /l/db-b", "serial file: /l/db-d"]
    assert sentences(outcome.warnings) == ["serial file '/l/c' is shared with the original"]


def test_console_of_a_serial_port_is_named_once() -> None:
    """A serial port stands twice in a definition, as a console, too: both get the path, and it is named once."""
    both = (
        "<serial type='file'><source path='/l/NAME'/></serial><console type='file'><source path='/l/NAME'/></console>"
    )

    renamed = apply(both.replace("NAME", "web"))
    kept = apply(both.replace("NAME", "log"))

    assert devices_of(renamed) == expected(both.replace("NAME", "db"))
    assert sentences(renamed.changes) == ["serial file: /l/db"]
    assert sentences(kept.warnings) == ["serial file '/l/log' is shared with the original"]


@pytest.mark.parametrize(
    "devices",
    [
        "",
        "<serial type='pty'><source path='/dev/pts/web'/></serial>",
        "<serial type='dev'><source path='/dev/web'/></serial>",
        "<serial type='file'><source path='/dev/null'/><log file='/dev/null'/></serial>",
        "<serial type='tcp'><source mode='bind' host='web' service='1'/></serial>",
        "<serial type='udp'><source mode='bind' host='web'/><source mode='connect' host='web' service='1'/></serial>",
        "<serial type='unix'><source mode='connect' path='/run/web.sock'/></serial>",
        "<serial/><console/><channel/><audio/><pstore/><interface/><rng/><smartcard/><redirdev/><parallel/>",
        "<channel type='unix'><source mode='bind'/></channel>",
        "<channel type='spiceport'><source channel='org.web'/></channel>",
        "<audio type='none'/>",
        "<audio type='file'/>",
        "<smartcard mode='host-certificates'><certificate>web</certificate><database>/etc/web</database></smartcard>",
        "<rng><backend model='random'>/dev/web</backend></rng>",
        "<interface type='user'><backend type='passt'/></interface>",
        "<disk type='file'><source file='/p/web.qcow2'/></disk>",
        "<emulator>/usr/bin/web</emulator>",
    ],
)
def test_what_is_no_file_of_its_own(devices: str) -> None:
    """Host devices, ports, and sockets that QEMU only connects to are no matter of this rule."""
    outcome = apply(devices)

    assert devices_of(outcome) == expected(devices)
    assert (outcome.changes, outcome.warnings) == ((), ())
