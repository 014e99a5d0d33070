"""Files and paths: atomic writes, checksums, strict JSON and YAML."""
