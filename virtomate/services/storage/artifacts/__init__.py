"""Artifacts: telling what cloning made from anything else, and removing it."""

from virtomate.services.storage.artifacts.looking import (
    bears_token_here,
    judge_outside_pools,
    require_intact,
    sight,
    why_not_in,
)
from virtomate.services.storage.artifacts.proof import BEGUN, OWN, Judgement, Verdict, judge, name_artifact
from virtomate.services.storage.artifacts.removal import locked, remove_artifact, stop_temporary_pool
from virtomate.services.storage.artifacts.token import put_token

__all__ = [
    "BEGUN",
    "OWN",
    "Judgement",
    "Verdict",
    "bears_token_here",
    "judge",
    "judge_outside_pools",
    "locked",
    "name_artifact",
    "put_token",
    "remove_artifact",
    "require_intact",
    "sight",
    "stop_temporary_pool",
    "why_not_in",
]
