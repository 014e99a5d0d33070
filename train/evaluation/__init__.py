"""Evaluation: protocols, per-sentence results, metrics and pages."""
