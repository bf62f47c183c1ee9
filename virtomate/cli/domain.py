"""Commands about domains."""

from __future__ import annotations

import click

from virtomate.cancel import CancelToken
from virtomate.cli.commands import Group
from virtomate.cli.completion import complete_domain
from virtomate.cli.options import CONTEXT_SETTINGS, Settings, common_options
from virtomate.cli.session import open_session
from virtomate.cli.signals import cancelling
from virtomate.output.progress import make_progress
from virtomate.output.render import render_clones, render_deletion, render_domains, render_interfaces
from virtomate.records import AddressSource, CloneRequest, Mode, Transfer


@click.group(cls=Group, context_settings=CONTEXT_SETTINGS)
@common_options
def domain() -> None:
    """Work with domains."""


@domain.command("clone", short_help="Clone a domain.", context_settings=CONTEXT_SETTINGS)
@common_options
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    default=Mode.COPY.value,
    show_default=True,
    help="How storage volumes are duplicated: copy makes independent volumes, linked makes overlays on the original "
    "ones, reflink lets the file system share what is equal.",
)
@click.option(
    "--transfer",
    type=click.Choice([Transfer.HOST.value, Transfer.STREAM.value, Transfer.SERVER.value]),
    help="How content gets into new volumes: written here (host), through the libvirt connection (stream), or by "
    "libvirt (server). [default: the fastest that is possible]",
)
@click.option(
    "--no-space-check",
    is_flag=True,
    help="Do not compare what will be written with what the pools have left; for file systems that compress.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@click.argument("source", metavar="DOMAIN", shell_complete=complete_domain)
@click.argument("name", metavar="NEWNAME")
@click.pass_obj
def clone(
    settings: Settings, source: str, name: str, *, mode: str, transfer: str | None, no_space_check: bool, dry_run: bool
) -> int:
    """Clone DOMAIN, given by name or UUID, and call the clone NEWNAME.

    DOMAIN must be shut off. Its file-based volumes and its NVRAM are duplicated, unless they are read-only, and must be
    in storage pools; the NVRAM may also be elsewhere. The clone gets a UUID, MAC addresses and ports of its own. Its
    disks' content is not altered: host name, addresses and keys inside are the original's.
    """
    from virtomate.services.clone import clone_domain  # noqa: PLC0415 - help and completion need no libvirt

    request = CloneRequest(
        source=source,
        name=name,
        mode=Mode(mode),
        dry_run=dry_run,
        transfer=None if transfer is None else Transfer(transfer),
        check_space=not no_space_check,
    )
    cancel = CancelToken()
    progress = make_progress(settings.progress, quiet=settings.quiet)
    with cancelling(cancel, progress), open_session(settings) as session:
        try:
            result = clone_domain(session, request, progress, cancel)
        finally:
            progress.close()
        render_clones([result], settings.format)
    return 0 if result.error is None else result.error.exit_status


@domain.command("list", context_settings=CONTEXT_SETTINGS)
@common_options
@click.pass_obj
def list_(settings: Settings) -> None:
    """List all domains, and say which are clones."""
    from virtomate.services.domains import list_all_domains  # noqa: PLC0415

    with open_session(settings) as session:
        render_domains(list_all_domains(session.connection), settings.format)


@domain.command(
    "delete", short_help="Delete an unfinished clone and what was made for it.", context_settings=CONTEXT_SETTINGS
)
@common_options
@click.argument("name", metavar="NAME", shell_complete=complete_domain)
@click.pass_obj
def delete(settings: Settings, name: str) -> None:
    """Delete the unfinished clone NAME, given by name or UUID, with everything that was made for it.

    An unfinished clone is what is left when virtomate or its host was killed. Finished clones and other domains are
    refused.
    """
    from virtomate.services.domains import delete_unfinished_clone  # noqa: PLC0415

    cancel = CancelToken()
    progress = make_progress(settings.progress, quiet=settings.quiet)
    with cancelling(cancel, progress), open_session(settings) as session:
        render_deletion(delete_unfinished_clone(session.connection, name, progress, cancel), settings.format)


@domain.command(
    "iface-list", short_help="List a domain's network interfaces and addresses.", context_settings=CONTEXT_SETTINGS
)
@common_options
@click.option(
    "--source",
    type=click.Choice([source.value for source in AddressSource]),
    default=AddressSource.LEASE.value,
    show_default=True,
    help="Who knows the addresses: the DHCP server of a network of libvirt's (lease), the agent in the guest, or the "
    "host's ARP table.",
)
@click.argument("name", metavar="DOMAIN", shell_complete=complete_domain)
@click.pass_obj
def iface_list(settings: Settings, name: str, *, source: str) -> None:
    """List the network interfaces of DOMAIN, given by name or UUID, with their addresses.

    DOMAIN must be running.
    """
    from virtomate.services.interfaces import list_interfaces  # noqa: PLC0415

    with open_session(settings) as session:
        render_interfaces(list_interfaces(session.connection, name, AddressSource(source)), settings.format)
