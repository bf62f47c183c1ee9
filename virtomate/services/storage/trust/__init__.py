"""Trust: in which directories of pools libvirt may open files."""

from virtomate.services.storage.trust.gate import PoolGate as PoolGate
from virtomate.services.storage.trust.gate import runs_unprivileged as runs_unprivileged
from virtomate.services.storage.trust.rule import admitted as admitted
from virtomate.services.storage.trust.rule import cautions as cautions
