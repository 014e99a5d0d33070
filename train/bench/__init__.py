"""Benchmarks of the online half: loader, training step, inference; ratios within one run."""
