"""Which domains the words of a command line mean: each is a name or UUID, or else a shell-style pattern for names."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from virtomate.errors import NotFoundError, UsageError
from virtomate.hypervisor.domains import find_domain, list_domains
from virtomate.tuples import NamedTuple
from virtomate.words import quoted, virtomate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from virtomate.cancel import CancelToken
    from virtomate.errors import VirtomateError
    from virtomate.hypervisor.connection import Connection
    from virtomate.hypervisor.domains import Domain

_SIGNS_OF_PATTERNS = frozenset("*?[")


class Selected(NamedTuple):
    """The domains that words mean.

    Attributes:
        domains: In the order of the words, those of a pattern by name.
        missing: Words that are neither the name or UUID of a domain nor a pattern, each with the error.
        unmatched: Patterns that match the name of no wanted domain.
    """

    domains: tuple[Domain, ...]
    missing: dict[str, NotFoundError]
    unmatched: tuple[str, ...]

    def errors(self, where: str, noun: str, options: str | None = "--clones") -> Iterator[VirtomateError]:
        """Yield what is wrong with the words; for the arguments see `unmatched_error`."""
        yield from self.missing.values()
        if self.unmatched:
            yield unmatched_error(self.unmatched, where, noun, options)


def select(
    connection: Connection, words: tuple[str, ...], cancel: CancelToken, is_wanted: Callable[[Domain], bool]
) -> Selected:
    """Return the domains that words mean.

    Args:
        connection: The connection of the domains.
        words: Names, UUIDs and patterns.
        cancel: Ends the look when a signal arrives.
        is_wanted: Whether a pattern means a domain with such a name.

    Raises:
        UsageError: Two words are the name or UUID of one domain.
    """
    found: dict[str, Domain] = {}
    named: set[str] = set()
    missing: dict[str, NotFoundError] = {}
    unmatched: list[str] = []
    for word in words:
        cancel.check()
        try:
            domain = find_domain(connection, word)
        except NotFoundError as error:
            if not _SIGNS_OF_PATTERNS.intersection(word):
                missing[word] = error
            elif matching := [domain for domain in _matching(connection, word) if is_wanted(domain)]:
                for domain in matching:
                    found.setdefault(domain.uuid, domain)
            else:
                unmatched.append(word)
            continue
        if domain.uuid in named:
            raise UsageError(f"domain '{domain.name}' is named twice")
        named.add(domain.uuid)
        found.setdefault(domain.uuid, domain)
    return Selected(tuple(found.values()), missing, tuple(unmatched))


def unmatched_error(patterns: tuple[str, ...], where: str, noun: str, options: str | None = None) -> NotFoundError:
    """Return the error for patterns that match nothing.

    Args:
        patterns: The patterns.
        where: Name of the connection.
        noun: What the patterns were to match: `clone`, `template`, `domain`.
        options: The options of `domain-list` that shows such domains.
    """
    return NotFoundError(
        f"no {noun} on {where} has a name like {quoted(patterns)}",
        hint=f"{virtomate('domain-list', options=options or '')} shows the {noun}s of this connection.",
    )


def _matching(connection: Connection, pattern: str) -> list[Domain]:
    matching = (domain for domain in list_domains(connection) if fnmatchcase(domain.name, pattern))
    return sorted(matching, key=lambda domain: domain.name)
