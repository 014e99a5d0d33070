"""A precompute run: options, plan, shard task, progress, cost."""
