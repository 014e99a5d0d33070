"""A precompute run: settings, plan, shard task, progress, cost."""
