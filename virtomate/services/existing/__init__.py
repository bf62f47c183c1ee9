"""Cloning where domains have the names of clones already: such clones are kept, or replaced by new ones."""

from virtomate.services.existing.run import ExistingClones as ExistingClones
