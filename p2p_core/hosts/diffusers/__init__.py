"""The diffusers library as host: the same edits from a script, without a server.

- `pipeline.py`: a Stable Diffusion model of diffusers' own making, and prompts as it reads them
- `attention.py`: attention processors that obey an edit while it lasts
- `sampling.py`: source and edits sampled side by side with any of diffusers' schedulers
- `inverting.py`: inversion of real images
"""
