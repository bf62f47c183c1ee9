"""What people and their terminals see, and what scripts get instead."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pexpect
import pyte
import pytest

from tests.functional.runs import BIG_BYTES, Watched, make_big_source, midway, start_clone, wait_for, wait_until_still
from tests.lab import Lab, Program, disk, domain, interface
from tests.lab.images import MIB

# Whoever copies pauses again and again, so that bars are drawn meanwhile, whatever else the machine does.
SLOW_CLONE = ("domain-clone", "--transfer", "stream", "--bandwidth", "200")

ESCAPE = "\x1b"
ROWS = 24
HIDE_CURSOR = "\x1b[?25l"
SHOW_CURSOR = "\x1b[?25h"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
MAC = r"([0-9a-f]{2}:){5}[0-9a-f]{2}"

EVENT_KEYS = {"event", "volume", "bytes", "total"}
CLONE_KEYS = {
    "changes",
    "consistency",
    "disks",
    "frozen",
    "frozen_seconds",
    "interfaces",
    "mode",
    "moment",
    "name",
    "notices",
    "nvram",
    "seconds",
    "source",
    "started",
    "status",
    "tpm",
    "uuid",
    "warnings",
}
DISK_KEYS = {
    "action",
    "bytes_copied",
    "capacity",
    "clone",
    "reason",
    "source",
    "subclusters",
    "target",
    "transfer",
}
VOLUME_KEYS = {"format", "path", "pool", "volume"}


@pytest.fixture(scope="module")
def big(session_lab: Lab) -> Iterator[Path]:
    """A domain `big` with a disk that takes a while to copy; its path."""
    mark = session_lab.mark()
    yield make_big_source(session_lab, session_lab.pool)
    session_lab.return_to(mark)


@pytest.fixture
def small(lab: Lab) -> Path:
    """A domain `small` with one small disk and one network interface; the disk's path."""
    path = lab.pool.raw("small.raw", 8 * MIB, data_bytes=2 * MIB)
    lab.define(domain("small", disks=[disk(path, "raw")], interfaces=[interface()]))
    return path


class Terminal:
    """A run of the program in a pseudo-terminal."""

    def __init__(
        self, virtomate: Program, *words: str | Path, columns: int = 120, env: Mapping[str, str] | None = None
    ) -> None:
        argv = virtomate.argv(*words)
        environment = virtomate.env({"TERM": "xterm-256color", **(env or {})})
        # Only what the terminal itself says counts.
        del environment["COLUMNS"]
        self.child = pexpect.spawn(
            argv[0],
            argv[1:],
            env=environment,
            cwd=str(virtomate.directory),
            dimensions=(ROWS, columns),
            encoding="utf-8",
            timeout=120,
        )

    def finish(self) -> tuple[int, str]:
        """Wait for the end; return the status as subprocess does, and all that was shown, without carriage returns."""
        before = self.child.before if isinstance(self.child.before, str) else ""
        after = self.child.after if isinstance(self.child.after, str) else ""
        self.child.expect(pexpect.EOF)
        self.child.close()
        shown = before + after + str(self.child.before)
        status = self.child.exitstatus if self.child.exitstatus is not None else -int(self.child.signalstatus or 0)
        return status, shown.replace("\r\n", "\n")


def screen(text: str, columns: int = 120) -> list[str]:
    """Return the lines that a person sees on a terminal to which this was written, the empty ones left out."""
    terminal = pyte.Screen(columns, ROWS)
    pyte.Stream(terminal).feed(text.replace("\n", "\r\n"))
    return [line.rstrip() for line in terminal.display if line.strip()]


def screens(text: str, columns: int) -> list[list[str]]:
    """Return what was to be seen on the terminal whenever the bars had been drawn anew."""
    pieces = re.split(r"(?=\r)", text)
    return [screen("".join(pieces[:count]), columns) for count in range(1, len(pieces) + 1)]


@pytest.mark.usefixtures("big")
def test_bars_show_bytes_and_go_away(lab: Lab, virtomate: Program) -> None:
    """At a terminal a copy shows a bar with bytes, rate and percentage; afterwards only the summary is there."""
    status, shown = Terminal(virtomate, *SLOW_CLONE, "big", "web").finish()

    assert status == 0, shown
    plain = COLOUR.sub("", shown)
    assert re.search(r"vda +\S+ +\d+% +\d+(\.\d+)?/3\d\d(\.\d+)? MiB \S+ \S+/s \S+", plain), plain
    assert HIDE_CURSOR in shown
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)
    lines = screen(shown)
    assert lines[0].startswith("Cloned big to web (copy) in ")
    assert not [line for line in lines if "%" in line]
    assert lab.connection.lookupByName("web")


def test_several_volumes_have_a_total(lab: Lab, virtomate: Program) -> None:
    """Each volume has a line of its own, and all of them one for the total."""
    disks = []
    for target in ("vda", "vdb"):
        path = lab.pool.raw(f"two-{target}.raw", 200 * MIB, data_bytes=160 * MIB)
        disks.append(disk(path, "raw", target))
    lab.define(domain("two", disks=disks))

    status, shown = Terminal(virtomate, *SLOW_CLONE, "two", "web").finish()

    assert status == 0, shown
    plain = COLOUR.sub("", shown)
    for label in ("vda", "vdb", "total"):
        assert re.search(rf"^{label} .*\d+%", plain.replace("\r", "\n").replace("\x1b[2K", ""), re.MULTILINE), plain


@pytest.mark.usefixtures("small")
def test_bars_of_linked_clones_show_no_bytes(virtomate: Program) -> None:
    """Nothing is copied for an overlay: its bar has neither bytes nor a rate, and JSON progress says 0 bytes."""
    status, shown = Terminal(virtomate, "domain-clone", "--mode", "linked", "small", "a", "b").finish()
    result = virtomate("--progress", "json", "domain-clone", "--mode", "linked", "small", "c", "d")

    assert status == 0, shown
    assert re.search(r"total +\S+ +\d+%", COLOUR.sub("", shown)), shown
    assert not re.search(r"B/s|bytes|\d/\d+(\.\d+)? [KMG]iB", COLOUR.sub("", shown)), shown
    totals = {event["event"]: event["total"] for event in result.progress if "total" in event}
    assert totals == {"expected": 0, "started": 0, "finished": 0}


@pytest.mark.usefixtures("big")
def test_a_pipe_shows_no_bars(virtomate: Program) -> None:
    """Where stderr is no terminal there is nothing but messages, whatever TERM says."""
    result = virtomate("domain-clone", "big", "web", env={"TERM": "xterm-256color"})

    assert (result.status, result.stderr) == (0, ""), str(result)
    assert ESCAPE not in result.stdout


def test_bars_can_be_forced(small: Path, virtomate: Program) -> None:
    """With --progress bar there are bars in a pipe, too, and stdout holds the result alone."""
    result = virtomate("--progress", "bar", "domain-clone", "small", "web", env={"TERM": "xterm-256color"})

    assert result.status == 0, str(result)
    assert result.stdout.startswith("Cloned small to web")
    assert str(small.parent) in result.stdout


def test_waiting_for_a_clone_shows_how_long_by_now(lab: Lab, small: Path, virtomate: Program) -> None:
    """What was cloned is told before the clone is waited for, then how long that takes; --wait starts it."""
    assert small.exists()
    terminal = Terminal(virtomate, "domain-clone", "--wait", "ip,3600", "small", "web")
    terminal.child.expect(r"Cloned small to web [^\r\n]*\r\n(?s:.*)  state +started\r\n")
    terminal.child.expect_exact("waiting for an IP address of 'web', 3600 seconds at most\r\n")
    terminal.child.expect(r"web [1-9]\d* s")
    terminal.child.sendintr()
    terminal.child.expect(pexpect.EOF)
    terminal.child.close()

    assert (terminal.child.signalstatus or terminal.child.exitstatus) in {signal.SIGINT, 130}
    lines = screen(str(terminal.child.before).replace("\r\n", "\n"))
    assert "Error: interrupted" in lines
    assert "Note: kept and running, but not waited for any longer: 'web'" in lines
    assert lab.connection.lookupByName("web").isActive()


@pytest.mark.usefixtures("big")
def test_no_color_takes_colours_and_no_bars(virtomate: Program) -> None:
    """With NO_COLOR bars move as otherwise, without colours; nothing else has an escape code, tables included."""
    no_colour = {"NO_COLOR": "1"}

    status, shown = Terminal(virtomate, *SLOW_CLONE, "big", "web", env=no_colour, columns=60).finish()

    assert status == 0, shown
    bars, _, summary = shown.partition("Cloned")
    assert re.search(r"vda .*\d+%", bars), shown
    codes = {code for codes in re.findall(r"\x1b\[([0-9;]*)m", shown) for code in codes.split(";")}
    assert codes <= {"", "0", "1", "2"}, codes
    assert ESCAPE not in summary
    assert screen(shown, 60)[0].startswith("Cloned big to web (copy) in ")
    for words in [("domain-list",), ("pool-list",), ("-h",), ("domain-clone", "missing", "x")]:
        assert ESCAPE not in Terminal(virtomate, *words, env=no_colour).finish()[1]


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize(
    ("words", "variables"),
    [((), {"TERM": "dumb"}), (("-q",), {}), (("--progress", "none"), {})],
    ids=["dumb", "quiet", "none"],
)
def test_terminal_without_bars(virtomate: Program, words: tuple[str, ...], variables: dict[str, str]) -> None:
    """A dumb terminal, -q and --progress none get the summary and no escape code at all."""
    status, shown = Terminal(virtomate, *words, "domain-clone", "big", "web", env=variables).finish()

    assert status == 0, shown
    assert ESCAPE not in shown
    assert "\r" not in shown
    assert shown.startswith("Cloned big to web (copy) in ")
    if variables:
        for command in [("domain-list",), ("pool-list",), ("-h",), ("domain-clone", "missing", "x")]:
            assert ESCAPE not in Terminal(virtomate, *command, env=variables).finish()[1]


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize(
    ("columns", "bar"),
    [
        (200, r"vda \S+ +\d+% \d+\.\d/3\d\d\.\d MiB \d+\.\d [MG]iB/s \S+"),
        (80, r"vda \S+ +\d+% \d+\.\d/3\d\d\.\d MiB \d+\.\d [MG]iB/s \S+"),
        (40, r"vda \S+ +\d+% \S+"),
        (20, r"vda +\d+%"),
        (1, None),
    ],
)
def test_wide_and_narrow_terminals(virtomate: Program, columns: int, bar: str | None) -> None:
    """However narrow the terminal is, a volume takes one line, of what fits; afterwards there is only the summary."""
    status, shown = Terminal(virtomate, *SLOW_CLONE, "big", "web", columns=columns).finish()

    assert status == 0, shown
    assert "Traceback" not in shown
    assert "Cloned big to web" in shown
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)
    if bar is not None:
        before, _, after = shown.partition("Cloned")
        seen = screens(before, columns)
        assert all(len(lines) <= 1 for lines in seen), seen
        assert any(re.fullmatch(bar, lines[0]) for lines in seen if lines), seen
        assert "%" not in "".join(screen(f"{before}Cloned{after}", columns))


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize("columns", [40, 120])
def test_tables_at_a_terminal(lab: Lab, virtomate: Program, columns: int) -> None:
    """A list at a terminal is a table that loses nothing of a name that a person needs to type, however narrow."""
    name = "a-name-that-is-longer-than-a-narrow-terminal-is-wide"
    lab.make_pool(name, lab.make_directory("named"))

    for words, expected in [
        (("domain-list",), ["Name", "big"]),
        (("pool-list",), ["Name", name, lab.pool.name]),
        (("volume-list", lab.pool.name), ["Name", "big.raw"]),
    ]:
        status, shown = Terminal(virtomate, *words, columns=columns).finish()
        assert status == 0, shown
        lines = screen(shown, columns)
        assert all(len(line) <= columns for line in lines)
        # a name that is folded goes on at the beginning of the next line
        first_column = "".join(line.split()[0] for line in lines if not line.startswith(" "))
        assert [word for word in expected if word not in first_column] == [], lines
        assert "…" not in shown


def test_names_cannot_drive_the_terminal(lab: Lab, virtomate: Program) -> None:
    """Marks that turn the writing around and other codes in a name are spelled out, in tables, bars and messages."""
    name = "evil\u202e[red]\u2028x"
    path = lab.pool.raw("evil.raw", 8 * MIB, data_bytes=2 * MIB)
    lab.define(domain(name, disks=[disk(path, "raw")]))

    _, listed = Terminal(virtomate, "domain-list").finish()
    _, cloned = Terminal(virtomate, "domain-clone", name, f"{name}2").finish()
    _, missing = Terminal(virtomate, "domain-clone", "no\x1b[31m\x07", "x").finish()

    assert any(line.startswith(r"evil\u202e[red]\u2028x ") for line in screen(listed)), listed
    assert r"evil\u202e[red]\u2028x2" in screen(cloned)[0]
    assert r"'no\x1b[31m\x07'" in screen(missing)[0]
    assert COLOUR.findall(missing) == ["\x1b[1;31m", "\x1b[0m"]
    for shown in (listed, cloned, missing):
        assert not re.search("[\u202e\u2028\x07]", shown)
    assert ESCAPE not in COLOUR.sub("", missing)


@pytest.mark.usefixtures("small")
def test_errors_are_red_and_warnings_yellow(virtomate: Program) -> None:
    """The word that tells what a message is has the usual colour, at a terminal alone."""
    _, linked = Terminal(virtomate, "domain-clone", "--mode", "linked", "small", "web").finish()
    _, again = Terminal(virtomate, "domain-clone", "small", "web").finish()

    assert "\x1b[1;33mWarning:\x1b[0m do not start 'small'" in linked
    assert "\x1b[1;31mError:\x1b[0m there is already a domain 'web'" in again
    assert ESCAPE not in virtomate("domain-clone", "small", "web", env={"TERM": "xterm-256color"}).stderr


def is_pending(process: int, number: signal.Signals) -> bool:
    """Tell whether a signal waits for a process to go on (proc(5))."""
    status = Path(f"/proc/{process}/status").read_text()
    return bool(int(status.partition("ShdPnd:")[2].split()[0], 16) & 1 << number - 1)


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize("transfer", ["host", "stream"])
def test_ctrl_c_leaves_a_clean_screen(lab: Lab, virtomate: Program, transfer: str) -> None:
    """After Ctrl-C the bars are gone, the cursor is there, and the messages say what happened."""
    terminal = Terminal(virtomate.pausing("vda"), "domain-clone", "--transfer", transfer, "big", "web")
    process = int(str(terminal.child.pid))
    wait_until_still(process)
    terminal.child.send("\x03")
    wait_for(lambda: is_pending(process, signal.SIGINT), "the terminal has sent the signal")
    terminal.child.kill(signal.SIGCONT)
    status, shown = terminal.finish()

    assert status == -signal.SIGINT, shown
    assert re.search(r"vda .*\d%", shown), shown
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)
    lines = screen(shown)
    assert not [line for line in lines if "%" in line], lines
    assert any(line.startswith("Interrupted, cleaning up…") for line in lines)
    assert lines[-2:] == ["Error: interrupted", "Nothing is left of 'web'."]
    assert "Traceback" not in shown
    assert [found.name() for found in lab.connection.listAllDomains()] == ["big"]


@pytest.mark.usefixtures("big")
def test_progress_json_is_one_object_a_line(virtomate: Program) -> None:
    """With --progress json each line of stderr is an object with known keys, and bytes only grow up to the total."""
    result = virtomate("--progress", "json", "domain-clone", "big", "web")

    assert result.status == 0, str(result)
    events = result.progress
    assert [event["event"] for event in events] == ["started", *["progress"] * (len(events) - 2), "finished"]
    assert len(events) > 4
    assert {frozenset(event) for event in events} == {frozenset(EVENT_KEYS)}
    assert {event["volume"] for event in events} == {"vda"}
    done = [event["bytes"] for event in events]
    assert done == sorted(done)
    assert done[0] == 0
    (total,) = {event["total"] for event in events}
    assert done[-1] == total
    assert BIG_BYTES <= total < BIG_BYTES + MIB


@pytest.mark.usefixtures("big")
def test_progress_json_holds_notes_and_errors(lab: Lab, virtomate: Program) -> None:
    """With --progress json notes, warnings and errors are lines of JSON as well."""
    watched: Watched = start_clone(virtomate, "--transfer", "host", "big", "web", json=False)
    with midway(lab, watched, "host", lab.pool.path / "web.raw"):
        watched.run.signal(signal.SIGHUP)
    note = watched.wait_for_event("note")
    error = watched.wait_for_event("error")
    result = watched.run.wait()

    assert (result.status, result.stdout) == (-signal.SIGHUP, ""), str(result)
    assert "SIGHUP" in note["message"]
    assert note.keys() == {"event", "message"}
    assert error.keys() == {"event", "message", "type"}
    linked = virtomate("--progress", "json", "domain-clone", "--mode", "linked", "big", "linked")
    (warning,) = (event for event in linked.progress if event["event"] == "warning")
    assert (warning.keys(), warning["code"]) == ({"event", "message", "code", "subject"}, "linked-original")


def test_quiet_keeps_warnings_and_errors(small: Path, virtomate: Program) -> None:
    """-q hides progress and notes, not what has to be known."""
    linked = virtomate("-q", "domain-clone", "--mode", "linked", "small", "web")
    again = virtomate("-q", "domain-clone", "small", "web")

    assert linked.stderr.startswith("Warning: do not start 'small' any more")
    assert again.stderr.startswith("Error: there is already a domain 'web'\n")
    assert str(small.parent) in linked.stdout


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_who_takes_no_messages_gets_a_clone(virtomate: Program, stderr: str) -> None:
    """Where stderr is closed or full a warning is lost, and the clone is complete all the same."""
    argv = virtomate.argv("domain-clone", "--json", "--mode", "linked", "small", "web")
    words = ["bash", "-c", f'exec "$@" {stderr}', "sh", *argv]
    result = subprocess.run(words, env=virtomate.env(), stdout=subprocess.PIPE, text=True, check=False)

    assert result.returncode == 0
    assert [clone["status"] for clone in json.loads(result.stdout)] == ["cloned"]


def matches(lines: list[str], patterns: list[str]) -> None:
    """See that each line matches its pattern."""
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r}"


@pytest.mark.parametrize(
    ("mode", "disk_line"),
    [
        ("copy", r"  vda   copied to {}/web\.raw, 2\.0 MiB"),
        ("linked", r"  vda   linked as {}/web\.qcow2, on {}/small\.raw"),
    ],
)
def test_summary_of_a_clone(small: Path, virtomate: Program, mode: str, disk_line: str) -> None:
    """The summary names the clone, each disk and each MAC address, a line for each."""
    result = virtomate("domain-clone", "--mode", mode, "small", "web")

    directory = re.escape(str(small.parent))
    matches(
        result.stdout.splitlines(),
        [
            rf"Cloned small to web \({mode}\) in \d+\.\d s",
            rf"  UUID  {UUID}",
            disk_line.format(directory, directory),
            rf"  MAC   {MAC} \(was {MAC}\)",
        ],
    )


def test_summary_of_a_plan(lab: Lab, small: Path, virtomate: Program) -> None:
    """--dry-run says what would be done and by which transfer, and does nothing."""
    before = lab.inventory()

    result = virtomate("domain-clone", "--dry-run", "small", "web")

    assert (result.status, result.stderr) == (0, ""), str(result)
    lines = result.stdout.splitlines()
    assert lines[0] == "Would clone small to web (copy)"
    assert re.fullmatch(rf"  vda    copy to {re.escape(str(small.parent))}/web\.raw, 2\.0 MiB.*", lines[2])
    assert any("MAC addresses" in line for line in lines)
    assert not before.difference(lab.inventory())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("transfer", ["host", "stream", "server"])
def test_plan_names_the_transfer(virtomate: Program, transfer: str) -> None:
    """Which way the bytes will probably go is shown by --dry-run, for people too."""
    words = ("domain-clone", "--dry-run", "--transfer", transfer, "small", "web")

    (line,) = (line for line in virtomate(*words).stdout.splitlines() if line.startswith("  vda "))
    assert line.endswith(
        {"host": ", directly", "stream": ", through the connection", "server": ", by libvirt"}[transfer]
    )
    assert virtomate(*words, json=True).json[0]["disks"][0]["transfer"] == transfer


@pytest.mark.usefixtures("big", "small")
def test_list_of_domains(virtomate: Program) -> None:
    """The list has a line for each domain in the order of names; of clones it says of what and how."""
    assert virtomate("domain-clone", "small", "a clone").status == 0

    matches(
        virtomate("domain-list").stdout.splitlines(),
        [
            r"Name     State     UUID {34}Clone of",
            rf"a clone  shut-off  {UUID}  small \(copy\)",
            rf"big      shut-off  {UUID}",
            rf"small    shut-off  {UUID}",
        ],
    )


@pytest.mark.usefixtures("small")
def test_list_of_domains_in_80_columns(lab: Lab, virtomate: Program) -> None:
    """At a terminal of the usual width each domain has one line, without its UUID; at a wide one the UUID is there."""
    assert virtomate("domain-clone", "small", "a-name-of-usual-length").status == 0

    seen = {
        columns: screen(Terminal(virtomate, "domain-list", columns=columns).finish()[1], columns)
        for columns in (80, 120)
    }

    assert {len(lines) for lines in seen.values()} == {len(lab.connection.listAllDomains()) + 1}
    matches(seen[80][1:2], [r"a-name-of-usual-length  shut-off  small \(copy\)"])
    matches(seen[120][1:2], [rf"a-name-of-usual-length  shut-off  {UUID}  small \(copy\)"])


@pytest.mark.usefixtures("big")
def test_deletion_names_what_is_gone(lab: Lab, virtomate: Program) -> None:
    """domain-delete says what it deleted, a line for each thing."""
    watched = start_clone(virtomate, "--transfer", "host", "big", "web")
    target = lab.pool.path / "web.raw"
    with midway(lab, watched, "host", target):
        watched.run.signal(signal.SIGKILL)
        watched.run.process.wait()

    result = virtomate("domain-delete", "web")

    assert (result.status, result.stderr) == (0, ""), str(result)
    assert result.stdout == f"Deleted web\n  volume '{target}'\n"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("pretty", [False, True], ids=["json", "pretty"])
@pytest.mark.parametrize("dry_run", [False, True], ids=["real", "dry-run"])
def test_json_of_a_clone(virtomate: Program, pretty: bool, dry_run: bool) -> None:
    """With --json the output is one array with one element, whose keys are these, sorted."""
    words = ["-p" if pretty else "--json", "domain-clone", "small", "web", *["--dry-run"][: int(dry_run)]]
    result = virtomate(*words)

    assert (result.status, result.stderr) == (0, ""), str(result)
    assert (result.stdout.count("\n") > 1) == pretty
    (clone,) = result.json
    assert clone.keys() == CLONE_KEYS | ({"space"} if clone["status"] == "planned" else set())
    assert clone["status"] == ("planned" if dry_run else "cloned")
    (disk_,) = clone["disks"]
    assert disk_.keys() == DISK_KEYS
    assert disk_["clone"].keys() == disk_["source"].keys() == VOLUME_KEYS
    assert (disk_["bytes_copied"], disk_["capacity"]) == (2 * MIB, 8 * MIB)
    assert [interface_.keys() for interface_ in clone["interfaces"]] == [{"mac", "source_mac"}]
    assert clone["source"].keys() == {"name", "uuid"}
    assert list(clone) == sorted(clone)


@pytest.mark.usefixtures("big", "small")
def test_json_of_lists_and_errors(virtomate: Program) -> None:
    """The keys of what domain-list, a failure and a refusal print are these."""
    assert virtomate("domain-clone", "small", "web").status == 0
    listed: list[dict[str, Any]] = virtomate("domain-list", json=True).json

    assert [item["name"] for item in listed] == ["big", "small", "web"]
    assert all(item.keys() == {"name", "uuid", "state", "clone", "template"} for item in listed)
    assert {item["state"] for item in listed} == {"shut-off"}
    assert listed[0]["clone"] is None
    assert listed[2]["clone"].keys() == {"created", "mode", "source", "status"}
    assert virtomate("domain-clone", "small", "web", json=True).json.keys() == {"hint", "message", "type"}


def test_stdout_that_is_closed_early(small: Path, virtomate: Program) -> None:
    """Who reads only the beginning of the output (head) gets no traceback."""
    shell = ["-c", '"$@" | head -c 1', "sh", *virtomate.argv("domain-list", json=True)]
    child = pexpect.spawn("sh", shell, env=virtomate.env(), encoding="utf-8", timeout=120)
    child.expect(pexpect.EOF)
    child.close()

    assert str(child.before) == "["
    assert small.exists()


def test_without_a_terminal_rich_is_not_loaded(lab: Lab, virtomate: Program) -> None:
    """Where nobody sees bars, a clone does not wait for what draws them."""
    path = lab.pool.raw("src.raw", 4 * MIB)
    lab.define(domain("src", disks=[disk(path, "raw")]))

    result = virtomate("domain-clone", "src", "web", env={"PYTHONPROFILEIMPORTTIME": "1"})

    assert result.status == 0, str(result)
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "libvirt" in loaded
    assert not [name for name in loaded if name.partition(".")[0] == "rich"]
