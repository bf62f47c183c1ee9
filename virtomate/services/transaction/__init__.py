"""What makes volumes for a domain that is not there yet: the claim on its name, the journal, and the undo."""

from virtomate.services.transaction.claim import Acceptance as Acceptance
from virtomate.services.transaction.claim import Claim as Claim
from virtomate.services.transaction.claim import Memo as Memo
from virtomate.services.transaction.claim import new_journal as new_journal
from virtomate.services.transaction.claim import release_unless_needed as release_unless_needed
from virtomate.services.transaction.claim import require_acceptable as require_acceptable
from virtomate.services.transaction.fill import Filled as Filled
from virtomate.services.transaction.fill import create_volumes as create_volumes
from virtomate.services.transaction.fill import fill_volumes as fill_volumes
from virtomate.services.transaction.fill import without_acl as without_acl
from virtomate.services.transaction.guard import Guard as Guard
from virtomate.services.transaction.guard import guarded as guarded
from virtomate.services.transaction.guard import require_off as require_off
from virtomate.services.transaction.jobs import Bytes as Bytes
from virtomate.services.transaction.jobs import Empty as Empty
from virtomate.services.transaction.jobs import VolumeJob as VolumeJob
from virtomate.services.transaction.jobs import duplicating as duplicating
from virtomate.services.transaction.run_context import Run as Run
from virtomate.services.transaction.run_context import submit as submit
