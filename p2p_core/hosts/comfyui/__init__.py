"""The method inside ComfyUI.

    paper                      here
    source / edited prompt     rows of one positive conditioning, sources first (`controller.Rows`)
    M, cross-attention map     attn2 of a UNet's transformer blocks; self-attention is attn1
    t, step                    sigmas[0] against sample_sigmas (`schedules.progress`)
    Edit(M, M*, t)             patches in transformer_options for one call of the network

`conditioning` encodes prompts, `attention` is a run of the network, `families` know its layers,
`sampling` runs it; `viewing` looks at word maps, `inverting` finds a given image, `demo` loads the
demo model.
"""
