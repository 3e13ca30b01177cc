"""Measuring edits: results that survive being stopped, and PIE-Bench as it was published."""
