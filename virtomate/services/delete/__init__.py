"""Deleting clones, with everything that cloning made for them."""

from virtomate.services.delete.judging import judge_made as judge_made
from virtomate.services.delete.plan import DeletionPlan as DeletionPlan
from virtomate.services.delete.plan import plan_deletion as plan_deletion
from virtomate.services.delete.records import Consent as Consent
from virtomate.services.delete.records import Deletion as Deletion
from virtomate.services.delete.records import DeletionResult as DeletionResult
from virtomate.services.delete.records import DoomedThing as DoomedThing
from virtomate.services.delete.records import Selection as Selection
from virtomate.services.delete.run import delete_clones as delete_clones
from virtomate.services.delete.run import execute_plan as execute_plan
