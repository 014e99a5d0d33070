"""The online half: cache to two-stage fine-tune to evaluation."""
