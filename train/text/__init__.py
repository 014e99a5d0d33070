"""Prompts, dialogues and their ids: what the language model reads and says."""
