"""Training data: expression table, sampler, collation, loader."""
