"""`svp doctor`: check this machine against the needs of a recipe."""
