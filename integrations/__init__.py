"""Interfaces to other programs: their evaluation harnesses, data viewers and file formats.

Nothing here is imported before a command or the other program asks for it.
"""
