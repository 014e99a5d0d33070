"""`svp reproduce`: define, run, compare and report the paper's tables."""
