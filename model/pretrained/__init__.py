"""Pretrained model folders: config, safetensors, tokenizer, model card."""

from .config import ProjectorSpec
from .model_card import Card
from .pretrained import load_pretrained, save_pretrained

__all__ = ["Card", "ProjectorSpec", "load_pretrained", "save_pretrained"]
