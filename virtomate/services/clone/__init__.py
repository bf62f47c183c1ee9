"""Cloning a domain: read, plan, claim, fill, define, commit; several clones side by side."""
