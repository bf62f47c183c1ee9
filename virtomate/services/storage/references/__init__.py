"""References: who uses which file, by all definitions and all images of a connection."""

from virtomate.services.storage.references.documents import ReferenceCache as ReferenceCache
from virtomate.services.storage.references.freed import freed_base as freed_base
from virtomate.services.storage.references.freed import users_of_file as users_of_file
from virtomate.services.storage.references.graph import Reference as Reference
from virtomate.services.storage.references.graph import ReferenceKind as ReferenceKind
from virtomate.services.storage.references.graph import References as References
from virtomate.services.storage.references.graph import scan_references as scan_references
from virtomate.services.storage.references.lineage import DiskUse as DiskUse
from virtomate.services.storage.references.lineage import Image as Image
from virtomate.services.storage.references.lineage import Lineage as Lineage
from virtomate.services.storage.references.whereabouts import Locator as Locator
from virtomate.services.storage.references.writers import Writer as Writer
from virtomate.services.storage.references.writers import find_writers as find_writers
