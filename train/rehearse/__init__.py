"""Rehearsal: run the documented commands in order on stand-ins of the published files."""
