"""The pictures and figures of the README."""
