"""How a model and its optimizer lie on the devices: one process, DDP, FSDP2, DeepSpeed."""
