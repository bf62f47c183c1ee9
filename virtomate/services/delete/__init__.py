"""Deleting clones, with everything that cloning made for them."""

from virtomate.services.delete.plan import DeletionPlan, plan_deletion
from virtomate.services.delete.records import Consent, Deletion, DeletionResult, DoomedThing
from virtomate.services.delete.run import delete_clones, execute_plan

__all__ = [
    "Consent",
    "Deletion",
    "DeletionPlan",
    "DeletionResult",
    "DoomedThing",
    "delete_clones",
    "execute_plan",
    "plan_deletion",
]
