"""The demo model: its world (`scenes`), its training (`train`), its judge (`evaluate`) and its
weights.
"""
