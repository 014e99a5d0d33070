"""The rehearsal: the documented commands, run in order on stand-ins of the published files."""
