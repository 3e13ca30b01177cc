"""Prompt-to-Prompt (Hertz et al. 2022): words, edits and attention, with no host in sight."""
