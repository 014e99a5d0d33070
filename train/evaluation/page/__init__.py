"""The page of an evaluation: figures, slices and samples; static, no network, no script."""
