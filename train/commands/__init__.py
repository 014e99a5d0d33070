"""The command line of the online half: click only."""
