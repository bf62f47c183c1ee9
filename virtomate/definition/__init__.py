"""libvirt's documents as dicts: a codec without policy, readers, and the changes that make a clone.

No libvirt and no I/O: documents come in and go out as text.
"""

# The namespace of our record in a clone's metadata. The completion of names needs nothing else of this package.
PROVENANCE_NAMESPACE = "urn:virtomate:clone:1"
# The namespace of the mark in a template's metadata, for lists.
TEMPLATE_NAMESPACE = "urn:virtomate:template:1"
# The namespace of the mark in the metadata of a domain whose disks were moved onto overlays.
FREEZE_NAMESPACE = "urn:virtomate:freeze:1"
