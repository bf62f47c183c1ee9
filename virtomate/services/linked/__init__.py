"""The life of linked clones: bases that nobody writes to, and what becomes of clones that rest on them."""

from virtomate.services.linked.base import WRITE_BITS as WRITE_BITS
from virtomate.services.linked.base import WriteBits as WriteBits
from virtomate.services.linked.base import refuse_written as refuse_written
from virtomate.services.linked.base import remove_write_bits as remove_write_bits
from virtomate.services.linked.base import restore_write_bits as restore_write_bits
from virtomate.services.linked.base import why_write_bits_stay as why_write_bits_stay
from virtomate.services.linked.flatten import flatten_domains as flatten_domains
from virtomate.services.linked.flatten_records import FlattenedDisk as FlattenedDisk
from virtomate.services.linked.flatten_records import FlattenRequest as FlattenRequest
from virtomate.services.linked.flatten_records import FlattenResult as FlattenResult
from virtomate.services.linked.record import find_record as find_record
from virtomate.services.linked.reset import ResetDisk as ResetDisk
from virtomate.services.linked.reset import ResetRequest as ResetRequest
from virtomate.services.linked.reset import ResetResult as ResetResult
from virtomate.services.linked.reset import reset_clones as reset_clones
from virtomate.services.linked.sight import Sights as Sights
from virtomate.services.linked.template import TemplateResult as TemplateResult
from virtomate.services.linked.template import make_templates as make_templates
from virtomate.services.linked.template import undo_templates as undo_templates
from virtomate.services.linked.verify import Verification as Verification
from virtomate.services.linked.verify import VerifiedVolume as VerifiedVolume
from virtomate.services.linked.verify import refuse_broken as refuse_broken
from virtomate.services.linked.verify import rests_on_images as rests_on_images
from virtomate.services.linked.verify import verify_clones as verify_clones
from virtomate.services.linked.verify import verify_record as verify_record
