"""Measurements of the online half: loader, training step, inference; ratios are of one run."""
