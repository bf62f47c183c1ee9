"""libvirt's documents as dicts: a codec without policy, readers, and the changes that make a clone.

No libvirt and no I/O: documents come in and go out as text.
"""

# of the record of ours in a clone's metadata; it stands here, where it costs the completion of names nothing
PROVENANCE_NAMESPACE = "urn:virtomate:clone:1"
