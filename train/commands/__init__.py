"""Commands of the online half: click only, no torch at import."""
