"""Evaluation page: figures, slices and samples; static, no network, no script."""
