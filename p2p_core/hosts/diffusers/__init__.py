"""The diffusers library as host: the same edits from a script, without a server.

- `pipeline.py`: a diffusion model of diffusers' own making; `texts.py`: words as it reads them
- `flow.py`: a transformer that matches flows; `kinds.py`: one table, a row a class of them
- `opening.py`: either of them, from disk or of a pipeline
- `attention.py`: attention processors of a UNet that obey an edit while it lasts; `blocks.py`: the
  same for the blocks of transformers
- `sampling.py`: source and edits sampled side by side with any of diffusers' schedulers, which
  `scheduling.py` sets
- `inverting.py`: inversion of real images
"""
