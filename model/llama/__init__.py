"""LLaMA's frozen layers with LoRA adapters, in few operators."""
