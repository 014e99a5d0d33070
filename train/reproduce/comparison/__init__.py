"""Comparison over visual tokens: curves, their areas and plot, time of an answer."""
