"""Memory, operations and hours of a training step, from its recipe."""
