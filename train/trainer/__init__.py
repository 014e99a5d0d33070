"""The training loop: stages, steps, checkpoints, the run folder."""
