"""Prompt-to-Prompt for ComfyUI: edit an image by editing its prompt."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
