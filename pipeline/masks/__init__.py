"""Masks as run lengths: encoding, clean-up, suppression, mapping to the encoder's view."""
