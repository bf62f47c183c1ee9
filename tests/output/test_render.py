"""What is written where, as JSON and for people."""

from __future__ import annotations

import json
import re
import signal
from typing import TYPE_CHECKING

import pytest

from tests.output.records import (
    CLONED,
    DELETION,
    ERROR,
    IMPORT,
    INTERFACE,
    LEFT,
    LISTING,
    PING,
    PLANNED,
    POOL,
    PREVIEW,
    REPLACED,
    RUN,
    SCRIPT,
    SHARED_LUN,
    STARTED,
    UNCHANGED,
    VOLUME,
)
from virtomate.definition.provenance import DomainReference
from virtomate.definition.volume import Location
from virtomate.enums import Action, DeletionStatus, Mode, SideFileAction, Status, WaitFor
from virtomate.errors import InterruptedBySignalError, NoAnswerError, NotFoundError, RefusedWarningError
from virtomate.notices import Change, CloneWarning, Kept, Notice, notice
from virtomate.output import clones, deletions, lists, render
from virtomate.output import json as documents
from virtomate.output.streams import Format
from virtomate.services.clone_parts import InterfaceResult, NvramResult, TpmResult, VolumeReference
from virtomate.services.delete import Deletion, DeletionResult, DoomedThing
from virtomate.words import Reach, virsh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virtomate.services.clone_records import CloneResult
    from virtomate.services.listings import DomainListing

REACH = Reach()
HUMAN, JSON, PRETTY = Format(), Format(is_json=True), Format(is_json=True, is_pretty=True)
JSON_MESSAGES = Format(has_json_messages=True)
FAILED = CLONED._replace(status=Status.FAILED, error=ERROR)
FAILED_DELETION = DELETION._replace(status=DeletionStatus.FAILED, error=ERROR)
STOPPED_DELETION = DeletionResult(DeletionStatus.INTERRUPTED, "web-3", "u", error=InterruptedBySignalError(2))
ESCAPE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")


RENDERINGS: dict[str, tuple[Callable[[Format], None], object]] = {
    "a clone": (lambda form: clones.render_clones([CLONED], form), [documents.clone_document(CLONED, REACH)]),
    "two clones, one failed": (
        lambda form: clones.render_clones([FAILED, CLONED], form),
        [documents.clone_document(FAILED, REACH), documents.clone_document(CLONED, REACH)],
    ),
    "no clones": (lambda form: clones.render_clones([], form), []),
    "domains": (
        lambda form: lists.render_domains([LISTING, LISTING._replace(clone=None)], form),
        [documents.domain_document(LISTING, REACH), documents.domain_document(LISTING._replace(clone=None), REACH)],
    ),
    "no domains": (lambda form: lists.render_domains([], form), []),
    "pools": (lambda form: lists.render_pools([POOL], form), [documents.document(POOL, REACH)]),
    "volumes": (lambda form: lists.render_volumes([VOLUME], form), [documents.document(VOLUME, REACH)]),
    "a script": (
        lambda form: render.render_completion_script(*SCRIPT, form),
        {"shell": "fish", "script": "# a script\ncomplete virtomate\n"},
    ),
    "an import": (lambda form: render.render_import(IMPORT, form), documents.import_document(IMPORT, REACH)),
    "interfaces": (
        lambda form: lists.render_interfaces([INTERFACE], form),
        [documents.document(INTERFACE, REACH)],
    ),
    "an answer": (lambda form: render.render_ping(PING, form), documents.document(PING, REACH)),
    "deletions": (
        lambda form: deletions.render_deletions([DELETION, FAILED_DELETION, STOPPED_DELETION], form),
        [documents.document(item, REACH) for item in (DELETION, FAILED_DELETION, STOPPED_DELETION)],
    ),
    "an error": (lambda form: render.render_error(ERROR, form), documents.error_document(ERROR, REACH)),
}


@pytest.mark.parametrize("form", [JSON, PRETTY, Format(is_json=True, has_json_messages=True)])
@pytest.mark.parametrize(("show", "expected"), RENDERINGS.values(), ids=RENDERINGS.keys())
def test_json_is_one_document(
    show: Callable[[Format], None], expected: object, form: Format, capsys: pytest.CaptureFixture[str]
) -> None:
    """With JSON asked for, stdout holds exactly one document, which ends its line."""
    show(form)

    out = capsys.readouterr().out
    assert json.loads(out) == expected
    assert out.endswith("\n")
    if not form.is_pretty:
        assert out.count("\n") == 1


@pytest.mark.parametrize("form", [JSON_MESSAGES, Format(is_json=True, has_json_messages=True)])
@pytest.mark.parametrize(("show", "_expected"), RENDERINGS.values(), ids=RENDERINGS.keys())
def test_json_messages_are_json_lines(
    show: Callable[[Format], None], _expected: object, form: Format, capsys: pytest.CaptureFixture[str]
) -> None:
    """With JSON progress every line of stderr is a JSON object that says what kind of event it is."""
    show(form)

    for line in capsys.readouterr().err.splitlines():
        event = json.loads(line)
        assert event["event"] in {"error", "note", "warning"}
        assert isinstance(event["message"], str)


def test_error_as_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An error on stderr as JSON has all that it has on stdout as JSON."""
    render.render_error(ERROR, JSON_MESSAGES)

    captured = capsys.readouterr()
    assert json.loads(captured.err) == {"event": "error", **documents.error_document(ERROR, REACH)}
    assert captured.out == ""


def test_clone_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Data go to stdout, warnings to stderr; every disk and MAC address is named."""
    clones.render_clones([CLONED], HUMAN)

    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "Cloned ubuntu to web-1 (copy) in 1.2 s",
        "  UUID   f0e1d2c3-b4a5-4687-9788-a9bacbdcedfe",
        "  vda    copied to /srv/web-1.qcow2, 1.5 GiB",
        "  sda    shared with the original (block disk, not file-based)",
        "  NVRAM  /nvram/web-1_VARS.fd (copied)",
        "  MAC    52:54:00:00:00:02 (was 52:54:00:00:00:01)",
    ]
    assert captured.err == f"Warning: {SHARED_LUN}\n"


@pytest.mark.parametrize(
    ("mode", "actions", "words"),
    [
        (Mode.COPY, (Action.LINKED, Action.SHARED), "linked"),
        (Mode.COPY, (Action.COPIED, Action.LINKED), "copy, linked"),
        (Mode.COPY, (Action.SHARED,), "copy"),
        (Mode.AUTO, (Action.COPIED,), "auto"),
        (Mode.SHALLOW, (Action.COPIED,), "shallow"),
    ],
)
def test_mode_for_people(
    mode: Mode, actions: tuple[Action, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The heading tells how disks were duplicated, if options for disks choose another way than the mode."""
    disks = tuple(CLONED.disks[0]._replace(action=action) for action in actions)
    clones.render_clones([CLONED._replace(mode=mode, disks=disks)], HUMAN)

    assert capsys.readouterr().out.startswith(f"Cloned ubuntu to web-1 ({words}) in 1.2 s\n")


@pytest.mark.parametrize(
    ("tpm", "line"),
    [
        (TpmResult(SideFileAction.COPIED, "/swtpm/1", "/swtpm/2"), "  TPM    /swtpm/2 (copied)"),
        (TpmResult(SideFileAction.FRESH, None, None, "it has no state"), "  TPM    new (it has no state)"),
        (TpmResult(SideFileAction.FRESH, None, None), None),
        (TpmResult(SideFileAction.SHARED, "/dev/tpm0", "/dev/tpm0"), None),
    ],
    ids=["copied", "nothing to copy", "new", "shared"],
)
def test_tpm_for_people(tpm: TpmResult, line: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    """What became of a state that was to be copied is said; warnings tell of other TPMs."""
    clones.render_clones([CLONED._replace(tpm=tpm)], HUMAN)

    assert [found for found in capsys.readouterr().out.splitlines() if "TPM" in found] == ([line] if line else [])


def test_plans_of_several_clones_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """After the plans stands the space that all clones need together, compared with the free space."""
    clones.render_clones([PLANNED, PLANNED._replace(name="web-2")], HUMAN)

    lines = capsys.readouterr().out.splitlines()
    assert lines.count("  space  1.5 GiB in pool images, which has 1.0 TiB") == 2
    assert lines[-1] == "2 clones need 3.0 GiB in pool images, which has 1.0 TiB"


def test_plan_for_a_directory_in_no_pool(capsys: pytest.CaptureFixture[str]) -> None:
    """The space is that of the directory; nobody knows its temporary pool by name."""
    need = PLANNED.space[0]._replace(pool="virtomate-clone-1-2-3", directory="/srv/templates").told
    clones.render_clones([PLANNED._replace(space=(need,))], HUMAN)

    assert "  space  1.5 GiB in directory /srv/templates, which has 1.0 TiB\n" in capsys.readouterr().out


def test_plan_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """A plan says what would be done, not that it was, and tells no time."""
    clones.render_clones([PLANNED], HUMAN)

    out = capsys.readouterr().out
    assert "  space  1.5 GiB in pool images, which has 1.0 TiB\n" in out
    assert out.startswith("Would clone ubuntu to web-1 (copy)\n")
    assert "copy to /srv/web-1.qcow2" in out
    assert "share with the original" in out
    assert "copied to" not in out
    assert "Cloned" not in out


def test_disk_that_is_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    """A disk that the clone does not get is dropped, as was asked for."""
    dropped = CLONED.disks[1]._replace(target="vdc", action=Action.DROPPED, reason="as asked")
    clones.render_clones([CLONED._replace(disks=(dropped,))], HUMAN)

    assert "  vdc    dropped\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("complete", "line"),
    [
        (0, "0 of 3 clones are complete; nothing is left of them"),
        (1, "1 of 3 clones is complete; nothing is left of the others"),
        (2, "2 of 3 clones are complete; nothing is left of the other"),
    ],
)
def test_interrupted_clones_for_people(capsys: pytest.CaptureFixture[str], complete: int, line: str) -> None:
    """An interruption is said once for all clones, and the summary says that nothing is left."""
    interrupted = FAILED._replace(status=Status.INTERRUPTED, error=InterruptedBySignalError(2))
    clones.render_clones([CLONED] * complete + [interrupted] * (3 - complete), HUMAN, 1.52)

    said = [text for text in capsys.readouterr().err.splitlines() if not text.startswith("Warning: ")]
    assert said == ["Error: interrupted", line]


def test_interrupted_clones_for_front_ends(capsys: pytest.CaptureFixture[str]) -> None:
    """An interruption is one event, however many clones it concerns; another error names its clone."""
    left = FAILED.error
    assert left is not None
    interrupted = FAILED._replace(status=Status.INTERRUPTED, error=InterruptedBySignalError(2))
    clones.render_clones(
        [FAILED._replace(name="web-1"), interrupted, interrupted], HUMAN._replace(has_json_messages=True), 1.52
    )

    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(event["event"], event["message"], event.get("name")) for event in events] == [
        ("error", left.message, "web-1"),
        ("error", "interrupted", None),
    ]


def test_interrupted_clones_that_left_something(capsys: pytest.CaptureFixture[str]) -> None:
    """A clone of which something is left is named, however it ended."""
    error = InterruptedBySignalError(2)
    left = FAILED._replace(name="web-1", status=Status.INTERRUPTED, error=error.adding(leftovers=ERROR.leftovers))
    clean = FAILED._replace(name="web-2", status=Status.INTERRUPTED, error=InterruptedBySignalError(2))
    clones.render_clones([left, clean], HUMAN, 1.52)

    assert capsys.readouterr().err.splitlines() == [
        "Error: web-1: interrupted",
        "Left behind:",
        f"  {LEFT}",
        "Error: interrupted",
        "0 of 2 clones are complete",
    ]


def test_kept_clones_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """A clone that was there is not said to have been made, alone and among others."""
    clones.render_clones([UNCHANGED], HUMAN, 0.1)
    assert capsys.readouterr().out.splitlines() == [
        "web-1 is there already, a clone of ubuntu (copy)",
        "  UUID  f0e1d2c3-b4a5-4687-9788-a9bacbdcedfe",
        "  vda   kept /srv/web-1.qcow2",
        "  MAC   52:54:00:00:00:02",
    ]
    clones.render_clones([UNCHANGED, CLONED._replace(name="web-2", warnings=())], HUMAN, 1.52)
    assert capsys.readouterr().out.splitlines() == [
        "Name   MAC address        State",
        "web-1  52:54:00:00:00:02  unchanged",
        "web-2  52:54:00:00:00:02",
        "1 clone of ubuntu (copy) in 1.5 s, and 1 clone was there before",
    ]


def test_replaced_clones_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """The clone that gave way is told with what was removed and kept; an interruption says what is gone for each."""
    clones.render_clones([CLONED._replace(replaced=REPLACED, warnings=())], Format(reach=Reach(virsh="test:///")), 1.5)
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "  replaced  the clone 11111111-2222-4333-8444-555555555555 of ubuntu (linked)",
        "  replaced  volume '/srv/web-1.qcow2'",
        (
            "  replaced  kept: image '/srv/base.qcow2', which cloning did not make, and on which nothing rests any "
            "more: virsh -c test:/// vol-delete base.qcow2 deletes the image"
        ),
        "  replaced  kept: disk vdb (/srv/mine.qcow2), which cloning did not make",
    ]
    clones.render_clones([PLANNED._replace(replaced=REPLACED, warnings=())], HUMAN)
    assert "  replaces  volume '/srv/web-1.qcow2'" in capsys.readouterr().out.splitlines()
    gone = InterruptedBySignalError(2).adding("; gone")
    interrupted = FAILED._replace(status=Status.INTERRUPTED, error=InterruptedBySignalError(2))
    clones.render_clones(
        [interrupted._replace(name="a", replaced=REPLACED, error=gone), interrupted._replace(name="b")], HUMAN, 1.5
    )
    assert capsys.readouterr().err.splitlines()[:2] == ["Error: a: interrupted; gone", "Error: interrupted"]


def test_several_clones_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """What is to be known of all clones is said once; who failed is named, and how many are there."""
    clones.render_clones([CLONED, STARTED._replace(name="web-2"), FAILED._replace(name="web-3")], HUMAN, 1.52)

    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "Name   MAC address        Addresses  State",
        "web-1  52:54:00:00:00:02",
        "web-2  52:54:00:00:00:02  192.0.2.7  started",
        "2 clones of ubuntu (copy) in 1.5 s",
    ]
    assert captured.err.splitlines() == [
        f"Warning: {SHARED_LUN}",
        "Error: web-3: there is already a volume",
        "Left behind:",
        f"  {LEFT}",
        "Hint: Choose another name.",
        "2 of 3 clones are complete",
    ]


SILENT = STARTED._replace(name="web-2", addresses=(), error=NoAnswerError("'web-2' did not answer", "Wait."))
HALTED = STARTED._replace(name="web-3", addresses=(), error=InterruptedBySignalError(signal.SIGINT))


def test_answers_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """What was cloned comes before the waiting; each answer as soon as it is there, and an interruption once."""
    seen = []

    def wait() -> Iterator[CloneResult]:
        assert capsys.readouterr().out.startswith("Cloned ubuntu to web-1 (copy) in 1.2 s\n")
        for result in (CLONED, STARTED, SILENT, HALTED, HALTED._replace(name="web-4")):
            yield result
            seen.append(capsys.readouterr())

    results = clones.render_answers([CLONED], wait(), WaitFor.IP, HUMAN, 1.5)

    assert [result.name for result in results] == ["web-1", "web-1", "web-2", "web-3", "web-4"]
    assert [text.out for text in seen] == ["", "web-1 has an IP address\n  address  192.0.2.7/24 (eth0)\n", "", "", ""]
    assert [text.err for text in seen] == ["", "", "Error: 'web-2' did not answer\nHint: Wait.\n", "", ""]
    assert capsys.readouterr().err.splitlines() == [
        "Error: interrupted",
        "Note: kept and running, but not waited for any longer: 'web-3', 'web-4'",
    ]


def test_answers_of_agents_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """An agent's answer is one, whether there are addresses or none."""
    clones.render_answers([], [STARTED._replace(addresses=())], WaitFor.AGENT, HUMAN, 1.5)

    assert capsys.readouterr().out == "The guest agent of web-1 answers\n"


def test_answers_for_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON is one document at the end, for clones that are waited for as well."""
    clones.render_answers([STARTED], [STARTED, SILENT], WaitFor.IP, JSON, 1.5)

    captured = capsys.readouterr()
    assert [clone["name"] for clone in json.loads(captured.out)] == ["web-1", "web-2"]
    assert json.loads(captured.out)[1]["error"]["message"] == "'web-2' did not answer"
    assert captured.err == f"Warning: {SHARED_LUN}\n"


def test_definition_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A definition is printed as it is; at a terminal, what could drive it is spelled in XML."""
    planned = [PLANNED._replace(definition="<domain>\n\t\x9b\u202e</domain>", warnings=())]
    clones.render_clones(planned, HUMAN)
    assert capsys.readouterr().out == "<domain>\n\t\x9b\u202e</domain>\n"

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    clones.render_clones(planned, HUMAN)

    assert capsys.readouterr().out == "<domain>\n\t&#155;&#8238;</domain>\n"


def test_failure_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """A failed clone says what went wrong, what is left and what to do, on stderr alone."""
    clones.render_clones([FAILED], HUMAN)

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "Error: there is already a volume",
        "Left behind:",
        f"  {LEFT}",
        "Hint: Choose another name.",
    ]


def test_domains_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """A piped list is a table without decoration, which tells where a clone comes from and whether it is finished."""
    assert LISTING.clone is not None
    unfinished = LISTING._replace(name="web-2", clone=LISTING.clone._replace(finished=False, mode=Mode.COPY))
    lists.render_domains([LISTING._replace(clone=None), LISTING, unfinished], HUMAN)

    lines = [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["Name", "State", "UUID", "Clone of"],
        ["web-1", "shut-off", LISTING.uuid],
        ["web-1", "shut-off", LISTING.uuid, "ubuntu (linked)"],
        ["web-2", "shut-off", LISTING.uuid, "ubuntu (copy), unfinished"],
    ]


def _at_a_terminal(listings: list[DomainListing], columns: int, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The cells of the list that a terminal of this width shows, each domain in a line that fits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("TERM", "xterm")
        patch.setenv("NO_COLOR", "1")
        patch.setattr("sys.stdout.isatty", lambda: True)
        lists.render_domains(listings, HUMAN)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(listings) + 1
    assert max(len(line) for line in lines) <= columns
    return [re.split(r"\s{2,}", line.rstrip()) for line in lines]


def test_list_of_domains_keeps_one_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    """The UUID gives way first, then addresses but one, the mode, and the end of an original's name."""
    assert LISTING.clone is not None
    listings = [
        LISTING._replace(name="web-1", addresses=(INTERFACE,)),
        LISTING._replace(name="web-2", clone=LISTING.clone._replace(finished=False), addresses=()),
    ]
    plain = [listing._replace(addresses=None) for listing in listings]

    assert _at_a_terminal(plain, 90, capsys)[1] == ["web-1", "shut-off", LISTING.uuid, "ubuntu (linked)"]
    assert _at_a_terminal(plain, 80, capsys)[1] == ["web-1", "shut-off", "ubuntu (linked)"]
    everything = ["Name", "State", "Addresses", "UUID", "Clone of"]
    assert _at_a_terminal(listings, 120, capsys)[0] == everything
    assert _at_a_terminal(listings, 80, capsys) == [
        ["Name", "State", "Addresses", "Clone of"],
        ["web-1", "shut-off", "192.0.2.7, 2001:db8::7", "ubuntu (linked)"],
        ["web-2", "shut-off", "ubuntu (linked), unfinished"],
    ]
    assert _at_a_terminal(listings, 60, capsys)[1] == ["web-1", "shut-off", "192.0.2.7 +1", "ubuntu (linked)"]
    assert _at_a_terminal(listings, 54, capsys)[1:] == [
        ["web-1", "shut-off", "192.0.2.7 +1", "ubuntu"],
        ["web-2", "shut-off", "ubuntu, unfinished"],
    ]
    assert _at_a_terminal(listings, 48, capsys)[2][-1] == "ubun…, unfinished"


def test_completion_script_for_shells(capsys: pytest.CaptureFixture[str]) -> None:
    """A script is printed as it is."""
    render.render_completion_script(*SCRIPT, HUMAN)

    assert capsys.readouterr().out == SCRIPT[1]


def test_deletions_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """What was deleted and what was kept is named; however many a signal left alone, they get one sentence."""
    stopped = [STOPPED_DELETION._replace(name=f"web-{number}") for number in range(3, 15)]
    deletions.render_deletions([DELETION, FAILED_DELETION, *stopped], HUMAN)

    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "Deleted web-1",
        "  volume '/srv/web-1.qcow2'",
        "  kept: disk vdb (/srv/more), which cloning did not make",
    ]
    assert captured.err.splitlines() == [
        "Error: there is already a volume",
        "Left behind:",
        f"  {LEFT}",
        "Hint: Choose another name.",
        "Error: interrupted",
        "Note: not deleted: " + "".join(f"'web-{number}', " for number in range(3, 13)) + "2 more",
    ]


FREED = "which cloning did not make, and on which nothing rests any more"


def test_deletion_plan_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Who is to agree sees domains, and volumes with their sizes, on stderr."""
    unfinished = PREVIEW.provenance._replace(finished=False)
    overlay = Deletion("web-3", "w3", PREVIEW.provenance._replace(mode=Mode.LINKED), state="running")
    base = Deletion("web-2", "w2", unfinished, needs=frozenset({"w3", "w4"}))
    above = Deletion("web-4", "w4", PREVIEW.provenance, needs=frozenset({"w3"}))
    freed = notice(Kept.BASE, "/srv/base.qcow2", command=virsh("vol-delete", "base.qcow2", options="--pool p"))
    reach = HUMAN._replace(reach=Reach(virsh="test:///x"))
    deletions.render_deletion_plan([PREVIEW, overlay, base, above], [freed], reach)

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "web-1 (clone of ubuntu, copy)",
        "  volume '/srv/web-1.qcow2'     1.5 GiB",
        "  NVRAM '/nvram/web-1_VARS.fd'",
        "  kept: disk vdb (/srv/more), which cloning did not make",
        "web-2 (unfinished clone of ubuntu, copy)",
        "  web-4 (clone of ubuntu, copy)",
        "    web-3 (clone of ubuntu, linked; running, and ended first)",
        f"kept: image '/srv/base.qcow2', {FREED}: virsh -c test:///x vol-delete --pool p base.qcow2 deletes the image",
        "4 domains, 1.5 GiB in volumes",
    ]


def test_pools_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes are in binary units; an inactive pool shows no number of volumes."""
    lists.render_pools([POOL, POOL._replace(state="inactive", volume_count=None, is_persistent=False)], HUMAN)

    assert capsys.readouterr().out.splitlines() == [
        "Name    State     Capacity  Allocation  Available   Volumes  Persistent",
        "images  running   1.0 TiB   3.0 GiB     1021.0 GiB  2        yes",
        "images  inactive  1.0 TiB   3.0 GiB     1021.0 GiB           no",
    ]


def test_volumes_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes are in binary units; what has no format is listed by its type."""
    directory = VOLUME._replace(name="dir", type="dir", target=Location("/srv/dir", None), backing_store=None)
    lists.render_volumes([VOLUME, directory], HUMAN)

    assert capsys.readouterr().out.splitlines() == [
        "Name         Format  Capacity  Allocation  Backing store",
        "web-1.qcow2  qcow2   10.0 GiB  196.0 KiB   /srv/ubuntu.qcow2",
        "dir          dir     10.0 GiB  196.0 KiB",
    ]


def test_interfaces_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """There is a line for each address, and one for an interface that has none."""
    bare = INTERFACE._replace(name="eth1", hwaddr=None, addresses=())
    lists.render_interfaces([INTERFACE, bare], HUMAN)

    assert capsys.readouterr().out.splitlines() == [
        "Name  MAC address        Address",
        "eth0  52:54:00:00:00:01  192.0.2.7/24",
        "                         2001:db8::7/64",
        "eth1",
    ]


def test_output_of_a_program_for_people(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """What a program wrote is written as it is, each to its own; that some of it is missing is a warning."""
    render.render_run(RUN._replace(stdout=b"\xff\x1b\r\n", stderr=b"\xfe"), HUMAN, encode=False)

    captured = capfdbinary.readouterr()
    assert captured.out == b"\xff\x1b\r\n"
    assert captured.err == b"\xfeWarning: stdout was truncated to its first 4 B\n"


@pytest.mark.parametrize("encode", [True, False])
def test_output_of_a_program_as_json(encode: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON there is one document, and the warning on stderr."""
    render.render_run(RUN, JSON, encode=encode)

    captured = capsys.readouterr()
    assert json.loads(captured.out) == documents.run_document(RUN, encode=encode)
    assert captured.err.startswith("Warning: stdout was truncated to its first ")


def test_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A usage error leaves stdout empty, whatever format was asked for."""
    render.render_usage_error("Usage: virtomate", "no \x1b[31m", JSON)
    render.render_usage_error("", "nothing", HUMAN)

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["Usage: virtomate", r"Error: no \x1b[31m", "Error: nothing"]


def test_usage_error_as_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    """With JSON progress a usage error is one JSON line."""
    render.render_usage_error("Usage: virtomate", "no", JSON_MESSAGES)

    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err) == {"event": "error", "type": "UsageError", "message": "no"}


EVIL = "[red]x[/red] [link=http://x]y :smile: \x1b[31m\x1b]0;title\x07 \u202e\nnew line\r\x9b2J"
EVIL_VOLUME = VolumeReference(EVIL, EVIL, f"/srv/{EVIL}", "raw")
EVIL_NOTICES = (Notice(CloneWarning.SHARED, EVIL),)
EVIL_CLONE = CLONED._replace(
    name=EVIL,
    source=DomainReference(EVIL, "u"),
    disks=tuple(
        disk._replace(target=EVIL, reason=EVIL, source=EVIL_VOLUME, clone=EVIL_VOLUME) for disk in CLONED.disks
    ),
    nvram=NvramResult(SideFileAction.COPIED, EVIL, EVIL, "raw"),
    interfaces=(InterfaceResult(EVIL, EVIL),),
    changes=(Notice(Change.NEW, EVIL),),
    warnings=EVIL_NOTICES,
)
EVIL_ORIGIN = None if LISTING.clone is None else LISTING.clone._replace(source=EVIL_CLONE.source)
EVIL_LISTING = LISTING._replace(name=EVIL, clone=EVIL_ORIGIN)
EVIL_RENDERINGS: dict[str, Callable[[], None]] = {
    "clone": lambda: clones.render_clones([EVIL_CLONE], HUMAN),
    "clones": lambda: clones.render_clones([EVIL_CLONE, EVIL_CLONE], HUMAN, 1.5),
    "plan": lambda: clones.render_clones([EVIL_CLONE._replace(status=Status.PLANNED)], HUMAN),
    "domains": lambda: lists.render_domains([EVIL_LISTING], HUMAN),
    "pools": lambda: lists.render_pools([POOL._replace(name=EVIL)], HUMAN),
    "volumes": lambda: lists.render_volumes([VOLUME._replace(name=EVIL, backing_store=Location(EVIL, EVIL))], HUMAN),
    "import": lambda: render.render_import(
        IMPORT._replace(path=EVIL, pool=EVIL, volume=VOLUME._replace(name=EVIL, target=Location(EVIL, EVIL))), HUMAN
    ),
    "interfaces": lambda: lists.render_interfaces([INTERFACE._replace(name=EVIL)], HUMAN),
    "answer": lambda: render.render_ping(PING._replace(name=EVIL), HUMAN),
    "deletion": lambda: deletions.render_deletions(
        [DELETION._replace(name=EVIL, removed=(EVIL,), kept=EVIL_NOTICES)], HUMAN
    ),
    "stopped deletion": lambda: deletions.render_deletions([STOPPED_DELETION._replace(name=EVIL)], HUMAN),
    "deletion plan": lambda: deletions.render_deletion_plan(
        [
            PREVIEW._replace(
                name=EVIL,
                provenance=PREVIEW.provenance._replace(source=EVIL_CLONE.source),
                doomed=(DoomedThing(EVIL, 1),),
                kept_disks=EVIL_NOTICES,
            )
        ],
        EVIL_NOTICES,
        HUMAN,
    ),
    "error": lambda: render.render_error(NotFoundError(EVIL, EVIL, EVIL_NOTICES), HUMAN),
    "usage": lambda: render.render_usage_error("", EVIL, HUMAN),
}


@pytest.mark.parametrize("is_terminal", [False, True], ids=["pipe", "terminal"])
@pytest.mark.parametrize("show", EVIL_RENDERINGS.values(), ids=EVIL_RENDERINGS.keys())
def test_names_are_data(
    show: Callable[[], None], is_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is shown as it is: never as markup, and its control characters do not reach the terminal."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setenv("TERM", "xterm-256color")
    if is_terminal:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    show()

    shown = "".join(capsys.readouterr())
    # a terminal's table has a bold header, which is no name's doing
    names = shown.replace("\x1b[1m", "").replace("\x1b[0m", "") if is_terminal else shown
    assert "[red]x[/red] [link=http://x]y :smile:" in names
    assert not ESCAPE.search(names)
    assert not any(line.startswith(("new line", "2J")) for line in names.splitlines())


def test_piped_output_has_no_escape_codes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes into a pipe is plain, whatever the environment says of colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    for show, _ in RENDERINGS.values():
        show(HUMAN)

    captured = capsys.readouterr()
    assert captured.out
    assert "\x1b" not in captured.out + captured.err


def test_refused_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    """People see the warnings before the error that refuses them."""
    render.render_error(RefusedWarningError(CLONED.warnings), HUMAN)

    assert capsys.readouterr().err.splitlines() == [
        f"Warning: {SHARED_LUN}",
        "Error: --fail-on refuses the warning shared-disk",
        "Hint: Remove the cause, or leave the code out of --fail-on.",
    ]
