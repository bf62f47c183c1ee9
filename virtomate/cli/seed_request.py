"""The seed and the host names of a request of `domain-clone`, made of the words of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from virtomate.tuples import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from virtomate.services.seed import SeedFiles


class SeedWords(NamedTuple):
    """The words of the command line about seeds."""

    seed: bool
    hostname: str | None
    ssh_keys: tuple[str, ...]
    user: str | None
    user_data: str | None
    network_data: str | None
    vendor_data: str | None
    seed_dir: str | None

    @property
    def given(self) -> tuple[str, ...]:
        """The options that say what is in a seed, as far as they are given."""
        values = {
            "--ssh-key": self.ssh_keys,
            "--user": self.user,
            "--user-data": self.user_data,
            "--network-data": self.network_data,
            "--vendor-data": self.vendor_data,
            "--seed-dir": self.seed_dir,
        }
        return tuple(word for word, value in values.items() if value not in (None, ()))


def read_seed_words(
    words: SeedWords, how_many: int, numbered: Callable[[str, int], tuple[str, ...]] | None
) -> tuple[SeedFiles | None, tuple[str, ...]]:
    """Return the files of the seeds, None without seeds, and the host names, none for the names of the clones.

    Args:
        words: The words of the command line.
        how_many: How many clones there will be.
        numbered: Makes so many names of one name with `{}`; None without numbers.

    Raises:
        click.UsageError: Words do not go together.
        UsageError: A file cannot be read, or cloud-init would not understand the file.
    """
    host_names = () if words.hostname is None else _host_names(words.hostname, how_many, numbered)
    if not words.seed:
        if words.given:
            raise click.UsageError(f"{words.given[0]} is for a seed, and needs --seed.")
        return None, host_names
    _check_together(words)
    from virtomate.services.seed import SeedOptions, identity_in, read_seed  # noqa: PLC0415 - few clones get a seed

    files = read_seed(
        SeedOptions(words.ssh_keys, words.user, words.user_data, words.network_data, words.vendor_data, words.seed_dir)
    )
    given = identity_in(files.meta_data)
    if how_many > 1 and given:
        key = next(iter(given))
        what = "host name" if key == "local-hostname" else "instance ID"
        raise click.UsageError(
            f"meta-data in --seed-dir '{words.seed_dir}' has '{key}', and each of several clones needs a {what} of its "
            "own."
        )
    if words.hostname is not None and "local-hostname" in given:
        raise click.UsageError(
            f"--hostname contradicts 'local-hostname' in meta-data of --seed-dir '{words.seed_dir}'."
        )
    return files, (given["local-hostname"],) if "local-hostname" in given else host_names


def _check_together(words: SeedWords) -> None:
    given = words.given
    other = next((word for word in given if word in {"--ssh-key", "--user"}), None)
    if "--user-data" in given and other is not None:
        raise click.UsageError(
            f"--user-data is passed on as it is, and cannot be given with {other}: choose one, or write the same into "
            "the user data."
        )
    if "--seed-dir" in given and (other := next((word for word in given if word != "--seed-dir"), None)):
        raise click.UsageError(f"--seed-dir has all files of the seed, and cannot be given with {other}.")


def _host_names(name: str, how_many: int, numbered: Callable[[str, int], tuple[str, ...]] | None) -> tuple[str, ...]:
    if numbered is not None:
        return numbered(name, how_many)
    if how_many > 1:
        raise click.UsageError("--hostname is for one clone, and several are to be made.")
    if "{" in name:
        raise click.UsageError(f"'{name}' has no number without --count.")
    return (name,)
