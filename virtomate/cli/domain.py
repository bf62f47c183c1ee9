"""Commands about domains."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from virtomate.cli.abandoned import to_repeat, unfinished_clones
from virtomate.cli.app import open_app
from virtomate.cli.clone_options import EXAMPLES, SECTIONS
from virtomate.cli.completion import CLONE, DOMAIN
from virtomate.cli.help import Group
from virtomate.cli.options import OptionalArgument
from virtomate.enums import AddressSource, IfExists
from virtomate.errors import EXIT_FAILED, UsageError, combined_exit_status
from virtomate.words import counted, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from virtomate.cli.app import App
    from virtomate.cli.options import Settings
    from virtomate.services.clone_records import CloneRequest
    from virtomate.services.delete import DeletionPlan
    from virtomate.services.listings import DomainFilter


@click.group(cls=Group)
def domain() -> None:
    """Work with domains."""


@domain.command(
    "clone",
    short_help="Clone a domain.",
    sections=SECTIONS,
    examples=EXAMPLES,
    other_usages=["[OPTIONS] --from FILE [DOMAIN]"],
)
@click.argument("source", metavar="DOMAIN", type=DOMAIN, required=False)
@click.argument("names", cls=OptionalArgument, metavar="[NEWNAME]...", nargs=-1)
@click.pass_obj
def clone(settings: Settings, /, *, dry_run: bool, print_xml: bool, from_file: str | None, **words: Any) -> int:  # noqa: ANN401
    """Clone DOMAIN, given by name or UUID, and call the clone NEWNAME.

    DOMAIN must be shut off, unless --live, --shutdown or an external --snapshot is given. Its writable file-based
    volumes, which must be in storage pools unless --outside-pools is given, and its NVRAM are duplicated; other disks
    are shared, unless --block or --disk is given. The clone gets its own UUID, MAC addresses and ports. The content of
    its disks is not changed, unless --sysprep or --customize is given: host name, addresses and keys are the
    original's.

    Several NEWNAMEs make several clones in parallel. With --from, a file names clones with options of their own.
    """
    from virtomate.output.clones import render_answers, render_clones  # noqa: PLC0415

    requests = _clone_requests(from_file, words)
    request = requests[0]
    service = _clone_service(request, settings)
    is_plan = print_xml or dry_run
    uri = request.target_uri
    format_ = settings.format_at(uri)
    begin = time.monotonic()
    with open_app(settings) as app, app.other_session(uri) as target:
        with app.making(unfinished_clones(uri), target) as run:
            if print_xml:
                results = service.preview_each_definition(run, requests)
            elif dry_run:
                results = service.preview_each(run, requests)
            else:
                results = service.clone_each(run, requests)
        seconds = time.monotonic() - begin
        if request.wait is None or not any(result.is_started for result in results):
            render_clones(results, format_, None if is_plan else seconds)
        else:
            from virtomate.services.clone_start import wait_for_clones  # noqa: PLC0415 - few clones are waited for

            answers = wait_for_clones(target, results, request.wait, app.progress, app.cancel)
            results = render_answers(results, answers, request.wait.what, format_, seconds)
    return combined_exit_status(result.error for result in results if result.error is not None)


def _clone_requests(from_file: str | None, words: Mapping[str, Any]) -> tuple[CloneRequest, ...]:
    if from_file is not None:
        from virtomate.cli.clone_file import read_requests  # noqa: PLC0415 - few clones come from files

        return read_requests(click.get_current_context(), from_file, words)
    from virtomate.cli.clone_request import clone_request  # noqa: PLC0415

    if words["source"] is None:
        raise click.UsageError("Missing argument 'DOMAIN'.")
    return (clone_request(**words),)


def _clone_service(request: CloneRequest, settings: Settings) -> Any:  # noqa: ANN401 - a module, or an object like it
    if request.if_exists is IfExists.FAIL:
        from virtomate.services import clone  # noqa: PLC0415 - help and completion need no libvirt

        return clone
    from virtomate.output.streams import render_warnings  # noqa: PLC0415 - few names exist
    from virtomate.services.existing import ExistingClones  # noqa: PLC0415 - as above

    return ExistingClones(partial(render_warnings, format_=settings.format_at(request.target_uri)))


@domain.command("list")
@click.option("--running", is_flag=True, help="List only domains that are running, paused ones included.")
@click.option("--clones", is_flag=True, help="List only clones.")
@click.option(
    "--clones-of",
    metavar="DOMAIN",
    type=DOMAIN,
    help="List only clones of DOMAIN, given by name or UUID. [default: all domains]",
)
@click.option("--addresses", is_flag=True, help="Show the IP addresses of running domains, as far as they are known.")
@click.option("--tree", is_flag=True, help="Show which domains and volumes rest on which.")
@click.option(
    "--output",
    type=click.Choice(["ansible"]),
    help="Write another document: ansible, a dynamic inventory of the domains that run, in JSON. [default: a list]",
)
@click.pass_obj
def list_(
    settings: Settings,
    *,
    running: bool,
    clones: bool,
    clones_of: str | None,
    addresses: bool,
    tree: bool,
    output: str | None,
) -> None:
    """List domains, and tell which are clones.

    With --tree, --clones or --clones-of, linked clones are marked that are broken, see domain-verify.
    """
    from virtomate.output.lists import render_domains  # noqa: PLC0415
    from virtomate.services import listings as service  # noqa: PLC0415 - help and completion need no records

    if tree and output is not None:
        raise click.UsageError(f"--output {output} is a flat list, and cannot be given with --tree.")
    with open_app(settings) as app:
        wanted = service.DomainFilter(running, clones, clones_of)
        if output is not None:
            _show_inventory(app, wanted, settings)
            return
        if tree:
            _show_tree(app, wanted, settings, has_addresses=addresses)
            return
        listings = service.list_all_domains(app.session.connection, wanted, is_verified=wanted.is_about_clones)
        if addresses:
            listings = service.with_addresses(app.session, listings)
        render_domains(listings, settings.format)


def _show_inventory(app: App, wanted: DomainFilter, settings: Settings) -> None:
    from virtomate.output.inventory import render_inventory  # noqa: PLC0415 - few lists are inventories
    from virtomate.services.inventory import list_hosts  # noqa: PLC0415 - as above

    render_inventory(list_hosts(app.session, wanted), settings.format)


def _show_tree(app: App, wanted: DomainFilter, settings: Settings, *, has_addresses: bool) -> None:
    from virtomate.output.trees import render_tree  # noqa: PLC0415 - few lists are trees
    from virtomate.services.domain_tree import read_tree, with_addresses  # noqa: PLC0415

    tree = read_tree(app.session.connection, wanted)
    render_tree(with_addresses(app.session, tree) if has_addresses else tree, settings.format)


@domain.command("delete", short_help="Delete clones and what was made for them.")
@click.option("-y", "--yes", is_flag=True, help="Delete finished clones without asking.")
@click.option(
    "--yes-unproved",
    is_flag=True,
    help="Delete without asking files of which nothing proves that they were made for the clone.",
)
@click.option(
    "--clones-of",
    metavar="DOMAIN",
    multiple=True,
    type=DOMAIN,
    help="Delete all clones of DOMAIN, given by name or UUID. Can be repeated. [default: only the named clones]",
)
@click.option("--with-dependents", is_flag=True, help="Also delete the clones that rest on these clones.")
@click.option("--force", is_flag=True, help="End running clones first, as a power cut does.")
@click.argument("names", cls=OptionalArgument, metavar="[NAME]...", nargs=-1, type=CLONE)
@click.pass_obj
def delete(
    settings: Settings,
    /,
    names: tuple[str, ...],
    *,
    yes: bool,
    yes_unproved: bool,
    **selection: Any,  # noqa: ANN401
) -> int:
    """Delete the clones NAME..., with everything that cloning made for them.

    NAME is a name, a UUID, or a pattern for names in quotes, such as 'web-*'. Clones must be shut off, and nothing else
    may use their volumes. Other domains are refused. virtomate asks before it deletes finished clones. Unfinished
    clones, which a crash leaves, are deleted without a question.

    virtomate also asks before it deletes files of which nothing proves that they were made for the clone, such as raw
    volumes on a remote host.
    """
    from virtomate.output.deletions import render_deletions  # noqa: PLC0415
    from virtomate.output.streams import render_warnings  # noqa: PLC0415
    from virtomate.services.delete import Consent, Selection, delete_clones  # noqa: PLC0415

    chosen = Selection(names, **selection)
    if not chosen.names and not chosen.clones_of:
        raise click.UsageError("Missing argument 'NAME...'. Name a clone, or give --clones-of.")
    abandoned = to_repeat("without the clones that are gone: it deletes what is left of the others")
    with open_app(settings) as app, app.working(abandoned) as progress:
        results = delete_clones(
            app.session,
            chosen,
            progress,
            app.cancel,
            consent=Consent(finished=yes, unproved=yes_unproved),
            agree=partial(_agrees, settings=settings, yes=yes),
            warn=partial(render_warnings, format_=settings.format),
        )
        if results is None:
            click.echo("Nothing was deleted.", err=True)
            return EXIT_FAILED
        if not results:
            app.progress.note(f"there are no clones of {quoted(chosen.clones_of)}")
    render_deletions(results, settings.format)
    return combined_exit_status(result.error for result in results if result.error is not None)


def _agrees(plan: DeletionPlan, settings: Settings, *, yes: bool) -> bool:
    """Ask whether to delete finished clones and unproved files; raise UsageError if not at a terminal."""
    from virtomate.output.deletions import render_deletion_plan  # noqa: PLC0415
    from virtomate.output.streams import tell  # noqa: PLC0415

    if settings.format.is_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        if plan.wanted and not yes:
            what = quoted(plan.wanted) if len(plan.wanted) == 1 else counted(len(plan.wanted), "clone")
            raise UsageError(f"--yes is required to delete {what} when not at a terminal")
        raise UsageError(
            f"nothing proves that these were made for the clones: {', '.join(plan.doubts)}; look at them, then give "
            "--yes-unproved"
        )
    render_deletion_plan(plan.deletions, (base.told for base in plan.freed), settings.format)
    question = "Delete them?" if len(plan.deletions) > 1 else "Delete it?"
    answer = settings.terminal.ask(lambda: click.confirm(question, err=True))
    tell("\n" if answer is None else "")
    return answer is True


@domain.command("iface-list", short_help="List a domain's network interfaces and addresses.")
@click.option(
    "--source",
    type=click.Choice([source.value for source in AddressSource]),
    default=AddressSource.LEASE.value,
    help="Where addresses come from: the DHCP server of a libvirt network (lease), the guest agent (agent), or the "
    "host's ARP table (arp). [default: lease]",
)
@click.argument("name", metavar="DOMAIN", type=DOMAIN)
@click.pass_obj
def iface_list(settings: Settings, name: str, *, source: str) -> None:
    """List the network interfaces of DOMAIN, given by name or UUID, with their addresses.

    DOMAIN must be running.
    """
    from virtomate.output.lists import render_interfaces  # noqa: PLC0415
    from virtomate.services.guest import list_interfaces  # noqa: PLC0415

    with open_app(settings) as app:
        render_interfaces(list_interfaces(app.session.connection, name, AddressSource(source)), settings.format)
