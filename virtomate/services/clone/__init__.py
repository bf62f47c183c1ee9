"""Cloning a domain: read, plan, claim, fill, define, commit; several clones in parallel."""

from virtomate.services.clone.plan import check_request as check_request
from virtomate.services.clone.run import clone_domains as clone_domains
from virtomate.services.clone.run import preview_clones as preview_clones
from virtomate.services.clone.run import preview_definitions as preview_definitions
