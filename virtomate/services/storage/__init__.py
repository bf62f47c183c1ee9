"""Storage as the services see it: which file is whose, and who uses it."""

from virtomate.services.storage.cache import ReferenceCache
from virtomate.services.storage.references import Reference, ReferenceKind, References, scan_references

__all__ = ["Reference", "ReferenceCache", "ReferenceKind", "References", "scan_references"]
