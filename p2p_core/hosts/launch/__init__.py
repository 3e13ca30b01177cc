"""Finding, starting and talking to a ComfyUI; imports none."""
