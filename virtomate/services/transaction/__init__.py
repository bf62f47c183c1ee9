"""What makes volumes for a domain that is not there yet: the claim on its name, the journal, and the undo."""
