"""Trust: in which directories of pools libvirt may open files."""

from virtomate.services.storage.trust.gate import PoolGate, runs_unprivileged
from virtomate.services.storage.trust.rule import admitted, cautions

__all__ = ["PoolGate", "admitted", "cautions", "runs_unprivileged"]
