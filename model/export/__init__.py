"""A trained model as a folder anyone can load: config, safetensors, tokenizer, model card."""

from .card import Card
from .folder import load_pretrained, save_pretrained
from .modelfile import ProjectorSpec

__all__ = ["Card", "ProjectorSpec", "load_pretrained", "save_pretrained"]
