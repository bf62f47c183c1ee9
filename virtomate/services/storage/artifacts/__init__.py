"""Artifacts: telling what cloning made from anything else, and removing it."""

from virtomate.services.storage.artifacts.looking import bears_token_here as bears_token_here
from virtomate.services.storage.artifacts.looking import judge_in_pool as judge_in_pool
from virtomate.services.storage.artifacts.looking import judge_outside_pools as judge_outside_pools
from virtomate.services.storage.artifacts.looking import pool_cure as pool_cure
from virtomate.services.storage.artifacts.looking import put_token as put_token
from virtomate.services.storage.artifacts.looking import require_intact as require_intact
from virtomate.services.storage.artifacts.looking import why_not_in as why_not_in
from virtomate.services.storage.artifacts.places import over_directory as over_directory
from virtomate.services.storage.artifacts.places import over_directory_of as over_directory_of
from virtomate.services.storage.artifacts.places import pool_of as pool_of
from virtomate.services.storage.artifacts.proof import BEGUN as BEGUN
from virtomate.services.storage.artifacts.proof import OWN as OWN
from virtomate.services.storage.artifacts.proof import Judgement as Judgement
from virtomate.services.storage.artifacts.proof import Verdict as Verdict
from virtomate.services.storage.artifacts.proof import delete_command as delete_command
from virtomate.services.storage.artifacts.proof import judge as judge
from virtomate.services.storage.artifacts.proof import name_artifact as name_artifact
from virtomate.services.storage.artifacts.removal import locked as locked
from virtomate.services.storage.artifacts.removal import remove_artifact as remove_artifact
from virtomate.services.storage.artifacts.removal import stop_temporary_pool as stop_temporary_pool
