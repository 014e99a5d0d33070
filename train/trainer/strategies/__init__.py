"""Distribution strategies: one process, DDP, FSDP2, DeepSpeed."""
