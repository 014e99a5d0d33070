"""Weight files: guarded loading, strict key reports, digests, search paths."""
