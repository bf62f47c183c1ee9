"""Memory, virtual CPUs and networks of a clone, and what depends on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from virtomate.definition import codec
from virtomate.definition.rewrite.shape import find_interface, with_memory, with_network, with_vcpus
from virtomate.errors import UnsupportedError, UsageError
from virtomate.output.messages import sentences

if TYPE_CHECKING:
    from virtomate.definition.codec import Document

GIB = 1 << 30
MAC = "52:54:00:AA:BB:01"


def document(*elements: str, memory: str = "<memory unit='KiB'>2097152</memory>", vcpu: str = "<vcpu>2</vcpu>") -> str:
    """A domain with these elements."""
    return f"<domain type='kvm'><name>src</name>{memory}{vcpu}{''.join(elements)}</domain>"


def parsed(text: str) -> Document:
    """The definition of a domain."""
    return codec.parse_definition(text).domain


def written(domain: Document) -> str:
    """The text of a definition."""
    return codec.unparse_definition(codec.parse_definition(document())._replace(domain=domain))


CURRENT = "<memory unit='KiB'>2097152</memory><currentMemory unit='KiB'>{}</currentMemory>"


@pytest.mark.parametrize(
    ("memory", "gib", "expected"),
    [
        ("<memory unit='KiB'>2097152</memory>", 4, {"memory": "4194304"}),
        ("<memory unit='MiB' dumpCore='off'>2048</memory>", 4, {"memory": "4194304"}),
        (CURRENT.format(2097152), 4, {"memory": "4194304", "currentMemory": "4194304"}),
        (CURRENT.format(1048576), 4, {"memory": "4194304", "currentMemory": "1048576"}),
        (CURRENT.format(2000000), 1, {"memory": "1048576", "currentMemory": "1048576"}),
    ],
)
def test_memory(memory: str, gib: int, expected: dict[str, str]) -> None:
    """The balloon keeps what it withholds, as far as that is possible; other attributes stay."""
    outcome = with_memory(parsed(document(memory=memory)), gib * GIB)

    found = {key: outcome.domain[key]["#text"] for key in ("memory", "currentMemory") if key in outcome.domain}
    assert found == expected
    assert {outcome.domain[key]["@unit"] for key in found} == {"KiB"}
    assert outcome.domain["memory"].get("@dumpCore") == ("off" if "dumpCore" in memory else None)
    assert sentences(outcome.changes) == [f"memory: {gib}.0 GiB instead of 2.0 GiB"]


@pytest.mark.parametrize(
    ("elements", "obstacle"),
    [
        ("<maxMemory slots='4'>8388608</maxMemory>", "<maxMemory>"),
        ("<cpu><numa><cell id='0' cpus='0-1' memory='2097152'/></numa></cpu>", "<numa> cells"),
        ("<devices><memory model='dimm'><target><size>1024</size></target></memory></devices>", "<memory> devices"),
        (
            "<memoryBacking><hugepages><page size='2' unit='GiB'/></hugepages></memoryBacking>",
            "huge pages of 2.0 GiB, of which 3.0 GiB is no multiple",
        ),
        ("<memtune><hard_limit unit='G'>2</hard_limit></memtune>", "<hard_limit> of 2.0 GiB"),
    ],
)
def test_memory_that_other_elements_depend_on(elements: str, obstacle: str) -> None:
    """A definition that would contradict itself is refused, with the tool that can do more."""
    with pytest.raises(UnsupportedError) as caught:
        with_memory(parsed(document(elements)), 3 * GIB)

    assert obstacle in caught.value.message
    assert "virt-xml" in (caught.value.hint or "")


def test_huge_pages_that_fit() -> None:
    """Memory in whole huge pages is no contradiction."""
    pages = "<memoryBacking><hugepages><page size='2' unit='MiB'/></hugepages></memoryBacking>"

    assert with_memory(parsed(document(pages)), GIB).domain["memory"]["#text"] == "1048576"


@pytest.mark.parametrize(
    ("vcpu", "count", "expected"),
    [
        ("<vcpu>2</vcpu>", 4, "<vcpu>4</vcpu>"),
        ("", 4, "<vcpu>4</vcpu>"),
        ("<vcpu placement='static' current='2'>4</vcpu>", 8, '<vcpu placement="static" current="2">8</vcpu>'),
        ("<vcpu placement='static' current='2'>4</vcpu>", 2, '<vcpu placement="static">2</vcpu>'),
    ],
)
def test_vcpus(vcpu: str, count: int, expected: str) -> None:
    """What is plugged in at first stays, as far as there is so much."""
    outcome = with_vcpus(parsed(document(vcpu=vcpu)), count)

    assert expected in written(outcome.domain)


@pytest.mark.parametrize(
    ("elements", "obstacle"),
    [
        ("<vcpus><vcpu id='0' enabled='yes'/></vcpus>", "<vcpus>"),
        ("<cpu><topology sockets='1' dies='1' cores='2' threads='1'/></cpu>", "a <topology> of 2"),
        ("<cpu><numa><cell id='0' cpus='0-1' memory='2097152'/></numa></cpu>", "<numa> cells"),
        ("<cputune><vcpusched vcpus='1-4' scheduler='fifo' priority='1'/></cputune>", "<vcpusched> of virtual CPU 1-4"),
        ("<cputune><vcpupin vcpu='4' cpuset='1'/></cputune>", "<vcpupin> of virtual CPU 4"),
    ],
)
def test_vcpus_that_other_elements_depend_on(elements: str, obstacle: str) -> None:
    """A definition that would contradict itself is refused; the number that it has is none."""
    domain = parsed(document(elements))
    with pytest.raises(UnsupportedError) as caught:
        with_vcpus(domain, 4)

    assert obstacle in caught.value.message
    assert with_vcpus(domain, 2) == (domain, (), ())


INTERFACES = f"""<devices>
<interface type='direct'><mac address='{MAC}'/><source dev='eth0' mode='bridge'/><target dev='web0'/>
<virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport><model type='virtio'/><mtu size='9000'/>
<bandwidth><inbound average='1'/></bandwidth><address type='pci' slot='3'/></interface>
<interface type='network'><mac address='52:54:00:aa:bb:02'/><source network='default' portgroup='p'/></interface>
<interface type='hostdev'><source><address type='pci' bus='1'/></source></interface>
</devices>"""


def test_network_of_an_interface() -> None:
    """The card stays as the guest sees it; what belongs to the former network goes."""
    domain = parsed(document(INTERFACES))

    outcome = with_network(domain, 0, "network", "lab")

    assert outcome.domain["devices"]["interface"][0] == {
        "@type": "network",
        "mac": {"@address": MAC},
        "model": {"@type": "virtio"},
        "mtu": {"@size": "9000"},
        "bandwidth": {"inbound": {"@average": "1"}},
        "address": {"@type": "pci", "@slot": "3"},
        "source": {"@network": "lab"},
    }
    assert domain["devices"]["interface"][0]["@type"] == "direct"
    assert sentences(outcome.changes) == [f"interface {MAC}: network 'lab' instead of direct 'eth0'"]
    moved = with_network(domain, 1, "bridge", "br0").domain["devices"]["interface"][1]
    assert (moved["@type"], moved["source"]) == ("bridge", {"@bridge": "br0"})
    with pytest.raises(UnsupportedError, match="is a device of the host"):
        with_network(domain, 2, "network", "lab")


@pytest.mark.parametrize(("word", "position"), [("1", 0), ("web0", 0), (MAC.lower(), 0), ("2", 1), ("3", 2)])
def test_interfaces_by_name(word: str, position: int) -> None:
    """An interface is found by its number, address or device."""
    assert find_interface(parsed(document(INTERFACES)), word) == position


@pytest.mark.parametrize(
    ("devices", "word", "message"),
    [
        ("", None, "has no network interface"),
        (INTERFACES, None, "has 3 network interfaces, 1 (52:54:00:AA:BB:01, web0, direct 'eth0'), 2 ("),
        (INTERFACES, "4", "has no network interface '4': it has 1 ("),
    ],
)
def test_interfaces_that_are_not_there(devices: str, word: str | None, message: str) -> None:
    """Who names no interface, or another one, reads which there are."""
    with pytest.raises(UsageError) as caught:
        find_interface(parsed(document(devices)), word)

    assert message in caught.value.message
