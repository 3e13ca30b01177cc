"""A UNet that is given the image to fill in, one an image of the batch."""

import comfy.model_patcher
import comfy.supported_models
import pytest
import torch
from runs import PROMPT, Settings, call, relative

from p2p_core.edits import WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.sampling import sample

SETTINGS = Settings(steps=3)


def inpainting_model(demo):
    """The demo model's UNet with an inpainting model's nine channels; random weights."""
    known = dict(demo.model.model.model_config.unet_config, in_channels=9)
    heads = {key: known.pop(key) for key in ("num_heads", "num_head_channels")}
    config = comfy.supported_models.SD15(known)
    config.unet_config.update(heads)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    model.set_inpaint()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.diffusion_model.parameters():
            parameter.normal_(0, 0.05, generator=generator)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, device, device)


def test_each_of_two_images_and_its_edits_are_given_that_image(demo):
    """Two images and two prompts: what is given one a prompt is not taken for one an image."""
    import nodes

    model, generator = inpainting_model(demo), torch.Generator().manual_seed(1)
    pixels = torch.rand(2, 128, 128, 3, generator=generator)
    holes = torch.zeros(2, 128, 128)
    holes[0, :64] = holes[1, :, 64:] = 1

    def given(positive):
        node = nodes.InpaintModelConditioning
        return call(node, positive, demo.encode(""), pixels, demo.vae, holes, False)

    encoded = build_controller(demo.clip, PROMPT, [(WordSwap("circle", "circle"),)])
    positive, negative, latent = given(encoded.conditioning)
    options = {"negative": negative, "latent": latent, **vars(SETTINGS)}
    result = sample(model, encoded, positive=positive, **options)
    (stock,) = call(
        nodes.KSampler,
        model,
        SETTINGS.seed,
        3,
        3.0,
        "euler",
        "normal",
        *given(demo.encode(PROMPT)),
        1.0,
    )
    source = result.source["samples"]
    assert relative(source, stock["samples"]) <= 5e-5
    assert relative(result.edited["samples"], source) <= 1e-5
    assert relative(source[:1], source[1:]) > 1e-2


@pytest.mark.parametrize("latents", [1, 4])
def test_images_to_fill_in_that_are_not_as_many_as_latents(latents, demo):
    """The first of two, or each of two twice: as the host makes of them."""
    import nodes

    model, nothing = inpainting_model(demo), demo.encode("")
    images = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    holes = torch.zeros(2, 1, 16, 16)
    holes[0, :, :8] = holes[1, :, :, 8:] = 1
    latent = {"samples": torch.zeros(latents, 4, 16, 16)}

    def given(conditioning):
        filled = {"concat_latent_image": images, "concat_mask": holes}
        return [[cond, extra | filled] for cond, extra in conditioning]

    encoded = build_controller(demo.clip, PROMPT, [(WordSwap("circle", "circle"),)])
    result = sample(
        model,
        encoded,
        positive=given(encoded.conditioning),
        negative=given(nothing),
        latent=latent,
        **vars(Settings(steps=1)),
    )
    plain = given(demo.encode(PROMPT)), given(nothing)
    (stock,) = call(nodes.KSampler, model, 0, 1, 3.0, "euler", "normal", *plain, latent, 1.0)
    source = result.source["samples"]
    assert relative(source, stock["samples"]) <= 5e-5
    assert relative(result.edited["samples"], source) <= 1e-5
