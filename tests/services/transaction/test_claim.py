"""The claim and its journal, as tables of what goes wrong and of what is then left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import libvirt
import pytest

from tests.services.transaction.fakes import FakeHost, Fault, error
from virtomate.definition import codec
from virtomate.definition.provenance import Artifact, DomainReference, Provenance, find_provenance
from virtomate.enums import ArtifactKind, ArtifactState, Mode
from virtomate.errors import ConflictError, ConnectionLostError, HypervisorError, IllegalStateError, VirtomateError
from virtomate.output.messages import sentences
from virtomate.rollback import Rollback
from virtomate.services.transaction.claim import Claim, ClaimState, new_journal, release_unless_needed

UUID = "11111111-2222-3333-4444-555555555555"
OTHER_UUID = "99999999-2222-3333-4444-555555555555"
NAME = "web-1"
LIKE = codec.parse_definition("<domain type='qemu'><os><type arch='x86_64'>hvm</type></os></domain>")
COMPLETE = codec.parse_definition(f"<domain type='qemu'><name>{NAME}</name><uuid>{UUID}</uuid></domain>")
DISK = Artifact(ArtifactKind.VOLUME, ArtifactState.PLANNED, "p", "web-1.qcow2", "/p/web-1.qcow2")
NVRAM = Artifact(ArtifactKind.NVRAM, ArtifactState.PLANNED, "p", "web-1.fd", "/p/web-1.fd")
POOL = Artifact(ArtifactKind.POOL, ArtifactState.PLANNED, "virtomate-clone-x", None, "/p")

Others: TypeAlias = Callable[[FakeHost], object]


def claim_on(host: FakeHost, *, is_uuid_given: bool = False) -> Claim:
    """A claim that has not been taken."""
    journal = new_journal(UUID, DomainReference("original", OTHER_UUID), Mode.COPY, (POOL, DISK, NVRAM))
    return Claim(host.session, NAME, journal, LIKE.domain, is_uuid_given=is_uuid_given)


def state_of(claim: Claim) -> ClaimState:
    """How far the claim is, which a type checker does not see changing."""
    return claim.state


def record_of(host: FakeHost, uuid: str = UUID) -> Provenance | None:
    """What the domain's metadata say, None where there is no such domain, or where they say nothing."""
    texts = [domain.text for domain in host.domains if domain.identity == uuid]
    return find_provenance(texts[0], uuid) if texts else None


def take_over(host: FakeHost) -> object:
    """Have another run define a claim of its own with the same name and UUID, which libvirt allows."""
    other = FakeHost()
    claim_on(other).take()
    return host.add(NAME, UUID, other.domains[0].text)


def start(host: FakeHost) -> None:
    """Have somebody start the domain."""
    (domain,) = (domain for domain in host.domains if domain.identity == UUID)
    domain.active = True


def forget(host: FakeHost) -> None:
    """Have somebody undefine the domain."""
    host.domains = [domain for domain in host.domains if domain.identity != UUID]


def test_claim_that_is_taken_and_given_back() -> None:
    """The claim has the name, the UUID and the journal; giving the name back leaves nothing."""
    host = FakeHost()
    claim = claim_on(host)
    claim.take()

    record = record_of(host)
    assert state_of(claim) is ClaimState.CLAIMED
    assert record is not None
    assert not record.finished
    assert (record.token, record.made) == (claim.provenance.token, (POOL, DISK, NVRAM))

    claim.release()
    assert state_of(claim) is ClaimState.UNCLAIMED
    assert host.domains == []


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.REFUSED, HypervisorError),
        (Fault.LOST, ConnectionLostError),
        # only a look tells that libvirt has carried it out
        (Fault.CARRIED_OUT, ConnectionLostError),
    ],
)
@pytest.mark.parametrize("is_uuid_given", [False, True])
def test_claim_that_cannot_be_taken(fault: Fault, kind: type[VirtomateError], is_uuid_given: bool) -> None:
    """Whatever libvirt has done of it, the undo leaves nothing."""
    host = FakeHost(faults={("define", 0): fault})
    claim = claim_on(host, is_uuid_given=is_uuid_given)

    with pytest.raises(kind):
        claim.take()

    assert state_of(claim) is ClaimState.UNCLAIMED
    claim.release()
    assert host.domains == []


@pytest.mark.parametrize("is_uuid_given", [False, True])
@pytest.mark.parametrize(("name", "uuid"), [(NAME, OTHER_UUID), ("other", UUID)])
def test_name_or_uuid_of_another(name: str, uuid: str, is_uuid_given: bool) -> None:
    """A domain that has the name or the UUID stays as it is, and the undo does not take it for the claim."""
    host = FakeHost()
    other = host.add(name, uuid)
    text = other.text
    claim = claim_on(host, is_uuid_given=is_uuid_given)

    with pytest.raises(VirtomateError) as caught:
        claim.take()
    claim.release()

    assert isinstance(caught.value, ConflictError) or uuid == UUID
    assert host.domains == [other]
    assert (other.title, other.text) == (name, text)


@pytest.mark.parametrize(
    ("others", "is_left"), [(take_over, True), (start, True), (forget, False)], ids=["taken over", "started", "gone"]
)
def test_others_change_the_claim_at_once(others: Others, is_left: bool) -> None:
    """Libvirt says nothing when two define the same: the claim is read back, and what is not ours is left."""
    host = FakeHost(meanwhile={("define", 0): others})
    claim = claim_on(host)

    with pytest.raises(IllegalStateError, match="changed by somebody else"):
        claim.take()

    before = [domain.text for domain in host.domains]
    if others is start:
        with pytest.raises(IllegalStateError):
            claim.release()
    else:
        claim.release()
    assert [domain.text for domain in host.domains] == before
    assert bool(before) is is_left


MADE = DISK._replace(state=ArtifactState.MADE)


def test_journal_is_in_the_order_of_the_plan() -> None:
    """What is noted is written with what is recorded next, each in its place."""
    host = FakeHost()
    claim = claim_on(host)
    claim.take()

    claim.note(NVRAM._replace(transfer=None, base="/p/base"))
    assert record_of(host) is not None
    before = record_of(host)
    claim.record(DISK._replace(base="/p/below"))
    after = record_of(host)

    assert before is not None
    assert after is not None
    assert before.made == (POOL, DISK, NVRAM)
    assert [(made.kind, made.base) for made in after.made] == [
        (ArtifactKind.POOL, None),
        (ArtifactKind.VOLUME, "/p/below"),
        (ArtifactKind.NVRAM, "/p/base"),
    ]


@pytest.mark.parametrize(
    ("fault", "is_written"), [(Fault.REFUSED, False), (Fault.LOST, False), (Fault.CARRIED_OUT, True)]
)
def test_journal_that_cannot_be_written(fault: Fault, is_written: bool) -> None:
    """A line that libvirt did not take is still known to this run, and the claim can be given back."""
    host = FakeHost(faults={("define", 1): fault})
    claim = claim_on(host)
    claim.take()
    line = DISK._replace(base="/p/below")

    with pytest.raises(HypervisorError):
        claim.record(line)

    record = record_of(host)
    assert record is not None
    assert (line in record.made) is is_written
    assert line in claim.provenance.made
    claim.release()
    assert host.domains == []


@pytest.mark.parametrize("others", [take_over, start, forget])
def test_nothing_is_written_into_what_is_not_ours(others: Others) -> None:
    """A run that lost its claim writes no journal, completes no clone, and leaves what is there."""
    host = FakeHost()
    claim = claim_on(host)
    claim.take()
    others(host)
    before = [domain.text for domain in host.domains]

    with pytest.raises(IllegalStateError, match="changed by somebody else"):
        claim.record(DISK)
    with pytest.raises(IllegalStateError, match="changed by somebody else"):
        claim.become(COMPLETE)

    assert [domain.text for domain in host.domains] == before
    assert host.calls["define"] == 1


def test_claim_becomes_the_clone() -> None:
    """The record of a complete clone names no process and no temporary pool, and nothing undoes it."""
    host = FakeHost()
    claim = claim_on(host)
    claim.take()
    claim.become(COMPLETE)

    record = record_of(host)
    assert state_of(claim) is ClaimState.COMPLETE
    assert record is not None
    assert record.finished
    assert (record.maker, record.made) == (None, (DISK, NVRAM))
    with pytest.raises(IllegalStateError, match="may be complete"):
        claim.release()
    assert record_of(host) == record


@pytest.mark.parametrize(
    ("faults", "state", "is_error"),
    [
        ({("define", 1): Fault.REFUSED}, ClaimState.CLAIMED, True),
        ({("define", 1): Fault.LOST}, ClaimState.CLAIMED, True),
        ({("define", 1): Fault.CARRIED_OUT}, ClaimState.COMPLETE, False),
        # the connection stays away, so nobody knows
        ({("define", 1): Fault.CARRIED_OUT, ("look up", 2): Fault.LOST}, ClaimState.COMPLETING, True),
        ({("define", 1): Fault.LOST, ("look up", 2): Fault.LOST}, ClaimState.COMPLETING, True),
    ],
)
def test_completion_that_goes_wrong(faults: dict[tuple[str, int], Fault], state: ClaimState, is_error: bool) -> None:
    """A clone that is complete, or may be, is never undone; one that certainly is not leaves nothing."""
    host = FakeHost(faults=faults)
    claim = claim_on(host)
    claim.take()

    if is_error:
        with pytest.raises(HypervisorError):
            claim.become(COMPLETE)
    else:
        claim.become(COMPLETE)

    assert state_of(claim) is state
    if state is ClaimState.CLAIMED:
        claim.release()
        assert host.domains == []
    else:
        with pytest.raises(IllegalStateError, match="may be complete"):
            claim.require_unfinished()
        with pytest.raises(IllegalStateError, match="may be complete"):
            claim.release()
        assert len(host.domains) == 1


def test_completion_that_is_carried_out_and_reported_as_refused() -> None:
    """Whatever the error of a call that may have defined the clone, a look decides what the clone is."""

    def complain(_host: FakeHost) -> None:
        raise error(libvirt.VIR_ERR_INTERNAL_ERROR)

    host = FakeHost(meanwhile={("define", 1): complain})
    claim = claim_on(host)
    claim.take()
    claim.become(COMPLETE)

    assert state_of(claim) is ClaimState.COMPLETE


@pytest.mark.parametrize("fault", Fault)
def test_claim_that_cannot_be_given_back(fault: Fault) -> None:
    """An undo that fails says so with the claim, unless the claim is gone, by then or at the second attempt."""
    host = FakeHost(faults={("undefine", 0): fault})
    claim = claim_on(host)
    claim.take()
    undo = Rollback()
    undo.push("domain 'web-1', an unfinished clone", lambda: release_unless_needed(claim, undo))

    leftovers = sentences(undo.run())

    assert bool(host.domains) is (fault is Fault.REFUSED)
    assert len(leftovers) == len(host.domains)
    assert all(leftover.startswith("domain 'web-1', an unfinished clone (") for leftover in leftovers)


def test_claim_stays_where_something_is_left() -> None:
    """What could not be removed is in the journal, so the claim is kept, and the volume and the claim are told."""
    host = FakeHost()
    claim = claim_on(host)
    claim.take()
    undo = Rollback()

    def fail() -> None:
        raise IllegalStateError("it is in use")

    undo.push("domain 'web-1'", lambda: release_unless_needed(claim, undo))
    undo.push("volume '/p/web-1.qcow2'", fail)

    assert tuple(sentences(undo.run())) == (
        "volume '/p/web-1.qcow2' (it is in use)",
        "domain 'web-1' (kept, since it records what is left)",
    )
    record = record_of(host)
    assert record is not None
    assert DISK in record.made


def test_uuid_that_was_asked_for_is_claimed_before_the_name() -> None:
    """A name that is taken between the two steps is seen by the renaming, and the undo takes the claim away."""
    host = FakeHost(meanwhile={("define", 0): lambda host: host.add(NAME, OTHER_UUID)})
    claim = claim_on(host, is_uuid_given=True)

    with pytest.raises(ConflictError):
        claim.take()
    claim.release()

    assert [(domain.title, domain.identity) for domain in host.domains] == [(NAME, OTHER_UUID)]


@pytest.mark.parametrize("call", ["define", "rename"])
@pytest.mark.parametrize("fault", [Fault.LOST, Fault.CARRIED_OUT])
def test_claim_is_taken_again_after_the_connection_broke(call: str, fault: Fault) -> None:
    """What the first attempt has left is no other's, so a second one takes the name and the UUID."""
    host = FakeHost(faults={(call, 0): fault})
    claim = claim_on(host, is_uuid_given=True)
    with pytest.raises(ConnectionLostError):
        claim.take()

    claim.take()

    assert state_of(claim) is ClaimState.CLAIMED
    assert [(domain.title, domain.identity) for domain in host.domains] == [(NAME, UUID)]
