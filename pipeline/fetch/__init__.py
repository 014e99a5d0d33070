"""`svp fetch`: official weights and annotation files, by name."""
