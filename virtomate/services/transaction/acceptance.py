"""Whether libvirt accepts the definition of a clone."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from virtomate.definition import codec, readers
from virtomate.errors import SchemaError, VirtomateError
from virtomate.hypervisor.domains import check_definition

if TYPE_CHECKING:
    from virtomate.definition.codec import Definition
    from virtomate.hypervisor.connection import Connection

_LOG = logging.getLogger(__name__)


class Acceptance:
    """libvirt's verdict on the definitions of a run's clones: of one original, they differ in names and addresses.

    The first clone with a claim asks for the verdict, before any volume is made; the others wait for it.
    """

    def __init__(self) -> None:
        self._judging = threading.Lock()
        self._is_accepted = False

    def require(self, connection: Connection, name: str, definition: Definition, original: Definition) -> None:
        """Have libvirt judge the final definition of a claimed clone, unless it has accepted another one of the run.

        Raises:
            HypervisorError: libvirt does not accept it.
        """
        with self._judging:
            if not self._is_accepted:
                require_acceptable(connection, name, _probe(definition), original)
                self._is_accepted = True


def require_acceptable(connection: Connection, name: str, probe: Definition, original: Definition) -> None:
    """Have libvirt judge the definition of a clone, by its schema only if the original's passes that.

    libvirt lets people define what its schema does not allow, such as an empty `<rom file=''>`, and the clone of such a
    domain is like it. The original's is looked at only where the clone's was refused.

    Args:
        connection: Where it is to be defined.
        name: The clone's name.
        probe: Its definition, with the UUID of an existing domain and a name that this domain does not have.
        original: The original's definition.

    Raises:
        HypervisorError: libvirt does not accept it.
    """
    text = codec.unparse_definition(probe)
    try:
        check_definition(connection, name, text)
    except SchemaError:
        if _passes_schema(connection, original):
            raise
        _LOG.info("judging the definition of %r without the schema, which its original's does not pass either", name)
        check_definition(connection, name, text, with_schema=False)


def _probe(definition: Definition) -> Definition:
    name = f"{readers.name(definition.domain)}.virtomate-check"
    return definition._replace(domain={**definition.domain, "name": name})


def _passes_schema(connection: Connection, original: Definition) -> bool:
    try:
        check_definition(connection, readers.name(original.domain), codec.unparse_definition(_probe(original)))
    except SchemaError:
        return False
    except VirtomateError:
        # libvirt checks the schema first, so it refused the definition for another reason
        return True
    return True
