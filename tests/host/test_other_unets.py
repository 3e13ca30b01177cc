"""SD2.x and SDXL: their own tokenizers, prediction, layers and pooled vectors; random weights."""

from __future__ import annotations

import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.text_encoders.sd2_clip
import pytest
import torch
from runs import PROMPT, Settings, relative

from p2p_core.edits import Refine, Reweight, WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.families.unet import cross_attention_sides
from p2p_core.hosts.comfyui.inverting import invert_latent
from p2p_core.hosts.comfyui.prompts import read
from p2p_core.hosts.comfyui.sampling import sample
from p2p_core.inversion.methods import Options
from p2p_core.inversion.null_text import Schedule as NullTexts
from p2p_core.local_blend import LocalBlend

TOLERANCE, ACROSS_BATCHES = 1e-5, 5e-5
WIDTH = 64
LAYERS = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "use_temporal_attention": False,
    "legacy": False,
}
SD2 = {
    **LAYERS,
    "channel_mult": [1, 2],
    "num_res_blocks": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": WIDTH,
    "adm_in_channels": None,
}
SDXL = {
    **LAYERS,
    "channel_mult": [1, 2, 2],
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [0, 1, 2],
    "transformer_depth_output": [0, 0, 1, 1, 2, 2],
    "transformer_depth_middle": 2,
    "context_dim": 2 * WIDTH,
    "adm_in_channels": WIDTH + 6 * 256,
    "num_classes": "sequential",
}


def text_config(vocabulary: int = 49408) -> dict:
    return {
        "num_hidden_layers": 3,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "hidden_act": "gelu",
        "vocab_size": vocabulary,
        "eos_token_id": 49407,
    }


def text_encoder(pad: int, device, dtype, model_options) -> comfy.sd1_clip.SDClipModel:
    """One of the host's CLIP encoders, small."""
    return comfy.sd1_clip.SDClipModel(
        device=device,
        dtype=dtype,
        layer="hidden",
        layer_idx=-2,
        textmodel_json_config=text_config(),
        special_tokens={"start": 49406, "end": 49407, "pad": pad},
        layer_norm_hidden_state=False,
        return_projected_pooled=True,
        model_options=model_options,
    )


class SmallXL(comfy.sdxl_clip.SDXLClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None):
        torch.nn.Module.__init__(self)
        options = model_options or {}
        self.clip_l = text_encoder(49407, device, dtype, options)
        self.clip_g = text_encoder(0, device, dtype, options)
        self.dtypes = {dtype}


class SmallH(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None, **_):
        torch.nn.Module.__init__(self)
        self.clip_name, self.clip = "h", "clip_h"
        self.clip_h = text_encoder(0, device, dtype, model_options or {})
        self.dtypes = {dtype}


def filled(module: torch.nn.Module, std: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, std, generator=generator)


def unet(kind, config, state=None):
    model_config = kind(config)
    model_config.set_inference_dtype(torch.float32, None)
    network = model_config.get_model(state or {}, "")
    filled(network.diffusion_model, 0.06, 0)
    device = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(network, device, device)


def clip(encoder, tokenizer):
    class Target:
        params: dict = {}  # noqa: RUF012 - the host's own shape of a clip target

    Target.clip, Target.tokenizer = encoder, tokenizer
    made = comfy.sd.CLIP(Target, embedding_directory=None)
    filled(made.cond_stage_model, 0.3, 1)
    return made


@pytest.fixture(scope="module")
def sd2():
    key = "output_blocks.11.1.transformer_blocks.0.norm1.bias"  # how the host tells v-prediction
    model = unet(comfy.supported_models.SD20, SD2, {key: torch.tensor([-1.0, 1.0])})
    return model, clip(SmallH, comfy.text_encoders.sd2_clip.SD2Tokenizer)


@pytest.fixture(scope="module")
def sdxl():
    model = unet(comfy.supported_models.SDXL, SDXL)
    return model, clip(SmallXL, comfy.sdxl_clip.SDXLTokenizer)


@pytest.fixture(params=["sd2", "sdxl"])
def both(request):
    return request.getfixturevalue(request.param)


def encode(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def run(model, clip, chains, prompt=PROMPT, **more):
    encoded = build_controller(clip, prompt, chains)
    latent = {"samples": torch.zeros(1, 4, 32, 24)}
    return sample(
        model, encoded, negative=encode(clip, "bad"), latent=latent, **vars(Settings()), **more
    )


def test_the_source_is_the_stock_ksamplers_and_edits_act(both):
    import nodes

    model, clip = both
    settings = vars(Settings())
    result = run(model, clip, [(WordSwap("circle", "circle"),), (WordSwap("circle", "star"),)])
    (stock,) = nodes.KSampler().sample(
        model,
        settings["seed"],
        settings["steps"],
        settings["cfg"],
        "euler",
        "normal",
        encode(clip, PROMPT),
        encode(clip, "bad"),
        {"samples": torch.zeros(1, 4, 32, 24)},
    )
    source, edited = result.source["samples"], result.edited["samples"]
    assert relative(source, stock["samples"]) <= ACROSS_BATCHES
    assert relative(edited[:1], source) <= TOLERANCE
    assert relative(edited[1:], source) > 1e-4


def test_prediction_and_layers(sd2, sdxl):
    import comfy.model_base

    assert sd2[0].model.model_type == comfy.model_base.ModelType.V_PREDICTION
    assert cross_attention_sides(sd2[0]) == (1.0, 0.5)
    assert cross_attention_sides(sdxl[0]) == (0.5, 0.25)  # none at the latent's own side


def test_words_find_their_tokens(both):
    _, clip = both
    prompt = read(clip, "a (red:1.3) circle, on the grass" + " and sand" * 40)
    assert prompt.length == 154
    assert [word.text for word in prompt.words[:3]] == ["a", "red", "circle"]
    assert prompt.tokens_of("circle") == [3]
    assert len(prompt.tokens_of("sand")) == 40


def test_pooled_vectors_are_per_row(sdxl):
    """An empty window leaves only the edited prompt's own vectors, pooled ones too."""
    model, clip = sdxl
    encoded = build_controller(clip, PROMPT, [(WordSwap("circle", "star"),)])
    ((_, extra),) = encoded.conditioning
    assert extra["pooled_output"].shape == (2, WIDTH)
    before = run(model, clip, [(WordSwap("circle", "circle"),)])
    changed = build_controller(clip, PROMPT, [(WordSwap("circle", "circle"),)])
    changed.conditioning[0][1]["pooled_output"][1] += 1
    after = sample(
        model,
        changed,
        negative=encode(clip, "bad"),
        latent={"samples": torch.zeros(1, 4, 32, 24)},
        **vars(Settings()),
    )
    assert relative(after.source["samples"], before.source["samples"]) <= TOLERANCE
    assert relative(after.edited["samples"], before.edited["samples"]) > 1e-4


def test_the_whole_language(both):
    model, clip = both
    left = torch.ones(1, 32, 24)
    left[..., 12:] = 0
    chain = (
        Refine("a big red star on the grass, at night"),
        Reweight((("red", 2.0),)),
        LocalBlend(("circle",), ("star",), start=0.0, user_mask=left),
    )
    result = run(model, clip, [chain])
    source, edited = result.source["samples"], result.edited["samples"]
    outside = (result.masks == 0)[:, None].expand_as(source)
    assert outside.any()
    assert (edited - source)[outside].abs().max() <= 1e-5 * source.abs().max()
    assert relative(edited, source) > 1e-4


@pytest.mark.parametrize("method", ["null-text", "direct-shared"])
def test_images_are_inverted_and_edited(method, both, demo):
    """Pooled vectors and v-prediction included; the demo's autoencoder has latents of this kind."""
    model, clip = both
    latent = {"samples": torch.randn(1, 4, 32, 24, generator=torch.Generator().manual_seed(0))}
    negative, settings = encode(clip, "bad"), vars(Settings())
    inversion = invert_latent(
        model,
        clip,
        PROMPT,
        Options(method, NullTexts(inner_steps=1)),
        negative=negative,
        latent=latent,
        vae=demo.vae,
        steps=settings["steps"],
        scheduler="normal",
        denoise=1.0,
        guidance=settings["cfg"],
    )
    encoded = build_controller(clip, PROMPT, [(WordSwap("circle", "star"),)])
    result = sample(
        model, encoded, negative=negative, latent=latent, inversion=inversion, **settings
    )
    source, edited = result.source["samples"], result.edited["samples"]
    assert relative(source, inversion.reconstruction) <= ACROSS_BATCHES
    assert relative(edited, source) > 1e-4
    if method == "direct-shared":
        assert relative(source, latent["samples"]) <= TOLERANCE
