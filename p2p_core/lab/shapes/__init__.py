"""Inversion methods on rendered scenes, against true answers."""
