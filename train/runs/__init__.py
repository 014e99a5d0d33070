"""One module per command: train, evaluate, predict, export, quickstart."""
