"""libvirt's documents as dicts: a codec without policy, readers, and the changes that make a clone.

No libvirt and no I/O: documents come in and go out as text.
"""
