"""Weight files: one guarded loader, strict key reports, digests, where they are looked for."""
