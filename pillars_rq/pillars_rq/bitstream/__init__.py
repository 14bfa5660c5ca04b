"""Frames as bytes: occupied cells by context, codes by static tables, checked before anything is decoded."""
