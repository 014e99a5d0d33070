"""The online half: from a cache through two-stage fine-tuning to evaluation."""
