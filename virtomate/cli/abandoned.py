"""What a command leaves that is ended at once, before it could clean up."""

from __future__ import annotations

from virtomate.tuples import NamedTuple
from virtomate.words import virtomate


class Abandoned(NamedTuple):
    """What the user should know of a command that was ended at once.

    Attributes:
        remains: A sentence about what is left or goes on; nothing if the cure says it all.
        cure: What can be done as soon as libvirt answers: a part of a sentence, without its full stop.
    """

    remains: str = ""
    cure: str = ""


def unfinished_clones(uri: str | None) -> Abandoned:
    """Return what is left of clones on the host of the original, or, with a URI, on another host, too."""
    # images for another host, and the freeze of an original, leave an unfinished clone on the host of the original
    places = (None,) if uri is None else (uri, None)
    lists = " and ".join(virtomate("domain-list", options="--clones", uri=place) for place in places)
    deletes = " and ".join(virtomate("domain-delete", uri=place) for place in places)
    ending = "s" if uri is None else ""
    return Abandoned(
        cure=f"{lists} show{ending} unfinished clones, and {deletes} remove{ending} what is left of such a clone"
    )


def unfinished_import(pool: str, name: str) -> Abandoned:
    """Return what is left of the import of a volume, which has a claim only where libvirt defines domains."""
    return Abandoned(
        f"Volume '{name}' in storage pool '{pool}' may be incomplete.",
        f"{virtomate('domain-delete')} removes it, together with the domain virtomate-import-… that "
        f"{virtomate('domain-list', options='--clones')} shows",
    )


def program_in_guest(domain: str) -> Abandoned:
    """Return what a program in a guest leaves; no one waits for its end any more."""
    return Abandoned(
        f"The program may go on in the guest of domain '{domain}', and its output may stay there, in files whose names "
        "begin with /tmp/virtomate-."
    )


def to_repeat(remark: str) -> Abandoned:
    """Return that the same command, run again, does the rest of its work, with a remark that ends that sentence."""
    return Abandoned(cure=f"run the same command again, {remark}")
