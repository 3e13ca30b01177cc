"""Edits as values, carried out in diffusers: one from the shell, or many by many workers."""
