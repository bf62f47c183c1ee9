"""Definitions of domains: libvirt takes them, judges them, and tells how it would start a domain with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import libvirt

from virtomate.errors import ConflictError, HypervisorError, NoFirmwareError, NoSpaceError, SchemaError
from virtomate.hypervisor.domains import Domain, find_domain_by_name
from virtomate.hypervisor.translate import no_room, one_line, translate

if TYPE_CHECKING:
    from virtomate.hypervisor.connection import Connection


def define_domain(connection: Connection, name: str, definition: str) -> Domain:
    """Define a domain, or redefine the one with the same name and UUID.

    libvirt does not check its schema here, which takes as long as all the rest; `check_definition` has it checked.

    Raises:
        ConflictError: Another domain has the name or the UUID.
        NoSpaceError: libvirt has no room for the definition, and keeps the former one.
        HypervisorError: libvirt does not accept the definition.
    """
    try:
        return Domain(connection.handle.defineXMLFlags(definition, 0))
    except libvirt.libvirtError as error:
        # "already exists" comes as a failed operation, as other things do: look
        if _is_about_names(error):
            holder = find_domain_by_name(connection, name)
            # a domain that is redefined stands in nobody's way
            if holder is not None and f"<uuid>{holder.uuid}</uuid>" not in definition:
                raise ConflictError(f"there is already a domain '{name}'") from error
        translation = translate(error, f"libvirt does not accept the definition of '{name}'")
        if isinstance(translation, NoSpaceError):
            translation = no_room(error, f"the definition of '{name}'")
        raise translation from error


def check_definition(connection: Connection, name: str, definition: str) -> None:
    """Have libvirt judge a definition, by its schema as well, without defining it.

    The definition must have the UUID of an existing domain under another name: libvirt then parses all of it, checks
    its schema, and refuses only in the end, since one UUID cannot have two names.

    Raises:
        SchemaError: The definition does not pass the schema.
        HypervisorError: libvirt does not accept the definition.
    """
    _judge(connection, name, definition, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)


def check_definition_without_schema(connection: Connection, name: str, definition: str) -> None:
    """Have libvirt judge a definition without defining it, as `check_definition` does, but without the schema."""
    _judge(connection, name, definition, 0)


def _judge(connection: Connection, name: str, definition: str, flags: int) -> None:
    try:
        handle = connection.handle.defineXMLFlags(definition, flags)
    except libvirt.libvirtError as error:
        if _is_about_names(error):
            return
        code = error.get_error_code()
        translation = translate(error, f"libvirt does not accept the definition of '{name}'")
        if code == libvirt.VIR_ERR_XML_INVALID_SCHEMA:
            translation = SchemaError(translation.message, code=code)
        raise translation from error
    # The domain that should have been in the way is gone.
    Domain(handle).undefine_keeping_nvram()
    raise HypervisorError(f"somebody else undefined the domain that kept libvirt from defining '{name}' when asked")


def _is_about_names(error: libvirt.libvirtError) -> bool:
    """Whether a definition was refused for its name and UUID alone: the list of domains says so, and no driver does."""
    told = (error.get_error_domain(), error.get_error_code())
    return told == (libvirt.VIR_FROM_DOMAIN, libvirt.VIR_ERR_OPERATION_FAILED)


def native_command_line(connection: Connection, definition: str) -> str:
    """The command line that libvirt would start the domain with; nothing is started or defined.

    Raises:
        NoFirmwareError: There is no firmware that the definition could be started with.
        HypervisorError: Something else keeps libvirt from starting it.
    """
    failure = "cannot ask libvirt how it would start the domain"
    try:
        return str(connection.handle.domainXMLToNative("qemu-argv", definition, 0))
    except libvirt.libvirtError as error:
        # of all that goes wrong before a start, only the look for firmware is a failed operation
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED:
            raise NoFirmwareError(one_line(error), code=error.get_error_code()) from error
        raise translate(error, failure) from error
