"""The definition that libvirt keeps of a clone, read back and compared with its original's."""

import uuid
from collections.abc import Mapping
from xml.etree import ElementTree as ET

import libvirt
import pytest

from tests.definition.trees import values
from tests.functional.support import clone, cloned, definition, refused, unchanged
from tests.lab import Lab, Program, disk, domain, interface
from tests.lab.domains import FOREIGN_METADATA, OUI_OTHER, VNC_PASSWORD, mac_address, rich_domain
from virtomate.definition import codec
from virtomate.errors import HypervisorError, SchemaError
from virtomate.hypervisor.connection import connect
from virtomate.services.transaction.claim import require_acceptable

RECORD = "/domain/metadata/{urn:virtomate:clone:1}clone"
MACS = [mac_address(1), mac_address(2, OUI_OTHER), mac_address(3)]


def facts(text: str) -> dict[str, str]:
    """Return every value of a definition by its XPath."""
    root = ET.fromstring(text)
    devices = root.find("devices")
    assert devices is not None
    # libvirt sorts the controllers that it had added itself when it reads a definition again.
    controllers = sorted(devices.findall("controller"), key=lambda found: (found.get("type"), found.get("index")))
    for controller in controllers:
        devices.remove(controller)
        devices.append(controller)
    return values(ET.tostring(root, encoding="unicode"))


def differences(original: Mapping[str, str], copy: Mapping[str, str]) -> dict[str, str | None]:
    """Return what the copy says where it says something else than the original; None where it says nothing."""
    paths = original.keys() | copy.keys()
    return {path: copy.get(path) for path in paths if copy.get(path) != original.get(path)}


@pytest.mark.parametrize("mode", ["copy", "linked"])
def test_rich_domain_differs_in_what_must_differ(lab: Lab, virtomate: Program, mode: str) -> None:
    """Of a domain with every kind of device only what two domains cannot share is changed, all else is kept."""
    logs = lab.make_directory("logs")
    paths = [lab.pool.raw("original.raw"), lab.pool.qcow2("data.qcow2")]
    disks = [disk(paths[0], "raw", serial="  A  1 "), disk(paths[1], "qcow2", "vdb", extra="<backingStore/>")]
    lab.define(rich_domain("original", disks, logs))
    text = definition(lab, "original")
    original = facts(text)

    document = clone(virtomate, "--mode", mode)

    copy_text = definition(lab, "clone")
    assert definition(lab, "original") == text
    changed = differences(original, facts(copy_text))
    record = {path for path in changed if path.startswith(RECORD)}
    assert changed[f"{RECORD}/@uuid"] == document["uuid"]
    macs = [interface["mac"] for interface in document["interfaces"]]
    genid = changed["/domain/genid"]
    expected = {
        "/domain/name": "clone",
        "/domain/uuid": document["uuid"],
        "/domain/sysinfo/system/entry[2]": document["uuid"],
        "/domain/genid": genid,
        "/domain/os/nvram": str(logs / "clone_VARS.fd"),
        "/domain/devices/disk[1]/source/@file": document["disks"][0]["clone"]["path"],
        "/domain/devices/disk[2]/source/@file": document["disks"][1]["clone"]["path"],
        "/domain/devices/disk[2]/backingStore": None,
        **{f"/domain/devices/interface[{position + 1}]/mac/@address": mac for position, mac in enumerate(macs)},
        "/domain/devices/graphics[1]/@port": "-1",
        "/domain/devices/graphics[1]/@autoport": "yes",
        "/domain/devices/graphics[1]/@websocket": "-1",
        "/domain/devices/graphics[2]/@port": None,
        "/domain/devices/graphics[2]/@autoport": "yes",
        "/domain/devices/vsock/cid/@auto": "yes",
        "/domain/devices/vsock/cid/@address": None,
        "/domain/devices/channel[2]/source/@path": str(logs / "clone.channel"),
        "/domain/devices/serial[2]/source/@path": str(logs / "clone-serial.log"),
        "/domain/devices/parallel/source/@path": str(logs / "clone-parallel.log"),
        "/domain/devices/audio/@path": str(logs / "clone.wav"),
    }
    if mode == "linked":
        expected["/domain/devices/disk[1]/driver/@type"] = "qcow2"
    assert {path: value for path, value in changed.items() if path not in record} == expected
    assert genid is not None
    assert uuid.UUID(genid)
    assert original["/domain/sysinfo/system/entry[2]"] == original["/domain/uuid"] != document["uuid"]
    assert [entry["source_mac"] for entry in document["interfaces"]] == MACS
    assert [mac[:8] for mac in macs] == [mac[:8] for mac in MACS]
    assert not {*macs} & {*MACS}
    assert copy_text.count(f"passwd='{VNC_PASSWORD}'") == 2
    assert "<serial>  A  1 </serial>" in copy_text


def test_result_names_what_is_new_and_what_is_shared(lab: Lab, virtomate: Program) -> None:
    """The result says what else is new in the clone than its volumes, and what it still shares with its original."""
    logs = lab.make_directory("logs")
    lab.define(rich_domain("original", [disk(lab.pool.raw("original.raw"), "raw")], logs))

    document = clone(virtomate)

    changes, warnings = "\n".join(document["changes"]), "\n".join(document["warnings"])
    for what in ("UUID", "SMBIOS", "generation ID", "MAC", "VNC", "SPICE", "vsock", str(logs / "clone.channel")):
        assert what in changes
    for what in ("127.0.0.1:4555", "original-shared", f"'{logs}'", "lab-tap"):
        assert what in warnings


def test_foreign_metadata_is_kept_as_it_is(lab: Lab, virtomate: Program) -> None:
    """What other programs keep in the metadata survives to the letter: comments, order, mixed text and CDATA."""
    notes = "<deep:x xmlns:deep='urn:lab:deep'>  a <b>&amp;</b> c\n<b/> d &#x20AC;<!-- e --><![CDATA[ <f> ]]></deep:x>"
    lab.define(domain("original", metadata=FOREIGN_METADATA + notes, description="  first\n\n second <&> \n"))
    before = element(definition(lab, "original"), "metadata").rstrip()
    assert "<!-- kept -->first<lab:b/>second<![CDATA[<&>]]>" in before

    clone(virtomate)

    copy = definition(lab, "clone")
    after, _, record = element(copy, "metadata").rstrip().partition("<virtomate:clone")
    assert after.rstrip() == before
    assert record.count("<") == record.count(">") - 1
    assert element(copy, "description") == "  first\n\n second &lt;&amp;&gt; \n"
    assert element(definition(lab, "original"), "description") == element(copy, "description")


def element(text: str, name: str) -> str:
    """Return what stands in the first element of a name, to the letter."""
    return text.split(f"<{name}>", 1)[1].split(f"</{name}>", 1)[0]


def listed(virtomate: Program) -> dict[str, dict[str, object]]:
    """Return what `domain-list` says, by name."""
    result = virtomate("domain-list", json=True)
    assert result.status == 0, str(result)
    return {entry["name"]: entry for entry in result.json}


@pytest.mark.parametrize("mode", ["copy", "linked"])
def test_origin_is_recorded(lab: Lab, virtomate: Program, mode: str) -> None:
    """A clone's metadata say what it was made of, how, and what was made for it; `domain-list` shows the origin."""
    store = lab.make_directory("nvram") / "original_VARS.fd"
    store.write_bytes(b"variables")
    firmware = f"<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader><nvram>{store}</nvram>"
    lab.define(domain("original", disks=[disk(lab.pool.qcow2("original.qcow2", 4 << 20))], firmware=firmware))
    source = {"name": "original", "uuid": lab.connection.lookupByName("original").UUIDString()}

    document = clone(virtomate, "--mode", mode)

    record = {
        path.removeprefix(f"{RECORD}/"): value
        for path, value in facts(definition(lab, "clone")).items()
        if path.startswith(RECORD)
    }
    assert (record["@state"], record["@mode"], record["@uuid"]) == ("finished", mode, document["uuid"])
    assert record["{urn:virtomate:clone:1}source/@name"] == "original"
    assert record["{urn:virtomate:clone:1}source/@uuid"] == source["uuid"]
    made = {value for path, value in record.items() if path.endswith("/@path")}
    assert made == {document["disks"][0]["clone"]["path"], str(store.with_name("clone_VARS.fd"))}
    entries = listed(virtomate)
    assert entries["original"]["clone"] is None
    origin = entries["clone"]["clone"]
    assert isinstance(origin, dict)
    assert (origin["source"], origin["mode"], origin["status"]) == (source, mode, "finished")


def test_clone_of_a_clone_names_its_own_parent(lab: Lab, virtomate: Program) -> None:
    """A clone's record replaces the one that its original has of its own origin."""
    lab.define(domain("original", disks=[disk(lab.pool.raw("original.raw", 1 << 20), "raw")]))
    document = clone(virtomate)

    second = cloned(virtomate("domain-clone", "--mode", "linked", "clone", "second", json=True))

    text = definition(lab, "second")
    assert text.count("urn:virtomate:clone:1") == 1
    assert "original" not in element(text, "metadata").replace(str(lab.pool.path), "")
    origin = listed(virtomate)["second"]["clone"]
    assert isinstance(origin, dict)
    assert origin["source"] == {"name": "clone", "uuid": document["uuid"]} == second["source"]


def test_record_that_another_tool_carried_over_counts_for_nothing(lab: Lab, virtomate: Program) -> None:
    """A record speaks of the domain whose UUID it has; a domain made by other means is no clone of ours."""
    lab.define(domain("original"))
    document = clone(virtomate)
    text = definition(lab, "clone").replace("<name>clone<", "<name>foreign<")
    lab.define(text.replace(f"<uuid>{document['uuid']}<", f"<uuid>{uuid.uuid4()}<"))

    assert listed(virtomate)["foreign"]["clone"] is None


def test_addresses_are_unlike_those_of_all_domains(lab: Lab, virtomate: Program) -> None:
    """Several clones and their original have different UUIDs and addresses in every interface."""
    macs = [mac_address(number) for number in range(1, 5)]
    lab.define(domain("original", interfaces=[interface(mac) for mac in macs]))
    documents = [cloned(virtomate("domain-clone", "original", f"clone-{number}", json=True)) for number in range(3)]

    used = [*macs, *(entry["mac"] for document in documents for entry in document["interfaces"])]

    assert len(set(used)) == len(used) == 16
    assert all(int(mac[:2], 16) & 1 == 0 for mac in used)
    assert len({document["uuid"] for document in documents}) == 3


def test_domain_without_anything(lab: Lab, virtomate: Program) -> None:
    """A domain without disks, interfaces and metadata is cloned, too."""
    lab.define(domain("original"))

    document = clone(virtomate)

    assert (document["disks"], document["interfaces"], document["nvram"]) == ([], [], None)
    changed = differences(facts(definition(lab, "original")), facts(definition(lab, "clone")))
    assert {path for path in changed if not path.startswith("/domain/metadata")} == {"/domain/name", "/domain/uuid"}


@pytest.mark.parametrize("words", ["--transfer=host", "--transfer=server", "--mode=linked"])
def test_definition_that_libvirt_no_longer_takes(lab: Lab, virtomate: Program, words: str) -> None:
    """What libvirt does not accept fails before a byte is copied; libvirt lets old domains be whatever they are."""
    lab.define(domain("original", disks=[disk(lab.pool.raw("original.raw", 1 << 20), "raw")]))
    lab.hypervisor.stop()
    (stored,) = (path for place in lab.hypervisor.state_directories for path in place.rglob("qemu/original.xml"))
    stored.write_text(stored.read_text().replace("device='disk'", "device='lun'"))
    lab.hypervisor.start()
    assert "device='lun'" in definition(lab, "original")
    before = lab.inventory()

    result = virtomate("--progress", "json", "domain-clone", words, "original", "clone", json=True)

    error = refused(lab, before, result)
    assert error["type"] == "libvirtError"
    assert "does not accept the definition of 'clone'" in error["message"]
    assert all(event.get("bytes", 0) == 0 for event in result.progress)


OUTSIDE_THE_SCHEMA = {
    "rom": interface(mac_address(1), extra="<rom file=''/>"),
    "target": interface(mac_address(1), type_="bridge", source="br0", extra="<target dev='tap 1'/>"),
}


@pytest.mark.parametrize("words", ["--transfer=server", "--mode=linked", "--print-xml"])
@pytest.mark.parametrize("what", OUTSIDE_THE_SCHEMA)
def test_definition_that_never_passed_the_schema(lab: Lab, virtomate: Program, what: str, words: str) -> None:
    """Libvirt defines what its schema does not allow, and the clone of such a domain is one like it."""
    path = lab.pool.raw("original.raw", 1 << 20)
    text = domain("original", disks=[disk(path, "raw")], interfaces=[OUTSIDE_THE_SCHEMA[what]])
    with pytest.raises(libvirt.libvirtError) as caught:
        lab.define(text)
    assert caught.value.get_error_code() == libvirt.VIR_ERR_XML_INVALID_SCHEMA
    lab.connection.defineXMLFlags(text, 0)
    before = lab.inventory()

    result = virtomate("domain-clone", words, "original", "clone", json=True)

    assert result.status == 0, str(result)
    assert element(definition(lab, "original"), "name") == "original"
    if words == "--print-xml":
        assert result.json[0]["definition"]
        unchanged(lab, before)
    else:
        assert ("tap 1" if what == "target" else "rom") in definition(lab, "clone")
        assert {found.name() for found in lab.connection.listAllDomains()} == {"original", "clone"}


def test_clone_alone_does_not_pass_the_schema(lab: Lab) -> None:
    """Where the original's definition passes the schema, the clone's must; judging them defines nothing."""
    lab.define(domain("original", interfaces=[interface(mac_address(1), extra="<rom file='/x.rom'/>")]))
    text = definition(lab, "original")
    before = lab.inventory()

    def judge(rom: str, original: str) -> type[Exception]:
        wrong = text.replace("file='/x.rom'", rom).replace("<name>original<", "<name>clone<")
        by = codec.parse_definition(text.replace("file='/x.rom'", original))
        with connect(lab.uri) as connection, pytest.raises(HypervisorError, match="definition of 'clone'") as caught:
            require_acceptable(connection, "clone", codec.parse_definition(wrong), by)
        return type(caught.value)

    assert judge("file=''", "file='/x.rom'") is SchemaError
    assert judge("bar='odd'", "file=''") is HypervisorError
    unchanged(lab, before)
