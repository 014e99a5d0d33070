"""docs/reliability.md: its rows, and the program that runs them."""
