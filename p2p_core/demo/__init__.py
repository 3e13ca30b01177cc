"""The demo model and all that belongs to it.

Its world (`scenes`), its training (`train`), its judge (`evaluate`) and its weights.
"""
