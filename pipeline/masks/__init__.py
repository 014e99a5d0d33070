"""Masks as runs: encoding, clean-up, suppression, and their way into the field of view."""
