"""Benchmarks of the offline half, one module per `svp bench` subcommand."""
