"""Cloning a domain: read, plan, claim, fill, define, commit; several clones in parallel."""

from virtomate.services.clone.each import clone_each as clone_each
from virtomate.services.clone.each import preview_each as preview_each
from virtomate.services.clone.each import preview_each_definition as preview_each_definition
from virtomate.services.clone.run import check_requests as check_requests
from virtomate.services.clone.run import clone_domains as clone_domains
from virtomate.services.clone.run import preview_clones as preview_clones
from virtomate.services.clone.target import errors_of as errors_of
