"""Storage as the services see it: which file is whose, and who uses it."""
