"""Beside the ways that others go."""
