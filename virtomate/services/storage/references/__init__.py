"""References: who uses which file, by all definitions and all images of a connection."""

from virtomate.services.storage.references.cache import ReferenceCache
from virtomate.services.storage.references.graph import Reference, ReferenceKind, References, scan_references

__all__ = ["Reference", "ReferenceCache", "ReferenceKind", "References", "scan_references"]
