"""The commands of the offline half; each is a few lines that call one function."""
