"""Protocols, per-sentence results and what is computed from them."""
