"""What the nodes say of themselves to the host, whichever of its fields it knows."""

import gc
import importlib
import weakref
from inspect import signature
from pathlib import Path

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_api.latest import io

from p2p_core.edits import WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller

KNOWS_ADVANCED = "advanced" in signature(io.Input.__init__).parameters
KNOWS_ALIASES = "search_aliases" in io.Schema.__dataclass_fields__
FIRST = {
    "P2P_WordSwap": ["words", "replacement", "cross_replace_end"],
    "P2P_Refine": ["edited_prompt", "cross_replace_end"],
    "P2P_Reweight": ["words", "factor"],
    "P2P_LocalBlend": ["source_words", "edited_words", "threshold"],
}


@pytest.fixture(scope="module")
def schemas(pack):
    """By id."""
    import asyncio

    async def nodes():
        extension = await pack.comfy_entrypoint()
        return [node.define_schema() for node in await extension.get_node_list()]

    return {schema.node_id: schema for schema in asyncio.run(nodes())}


@pytest.fixture(scope="module")
def inversion_nodes(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.inversion")


@pytest.mark.parametrize("node", FIRST)
def test_what_is_rarely_needed_is_folded_away(node, schemas):
    """On hosts that can fold; older ones show all, in the order of saved workflows."""
    widgets = [one for one in schemas[node].inputs if isinstance(one, io.WidgetInput)]
    shown = [one.id for one in widgets if not one.as_dict().get("advanced")]
    assert shown == (FIRST[node] if KNOWS_ADVANCED else [one.id for one in widgets])


def test_prompt_to_prompt_is_found(schemas):
    """Older hosts search names alone, and newer ones put what has the words in its name first."""
    words = {"prompt", "to"}
    named = [
        key
        for key, schema in schemas.items()
        if words <= set(schema.display_name.lower().replace("(", " ").replace("-", " ").split())
    ]
    assert named == ["P2P_Controller", "P2P_WordSwap", "P2P_KSampler"]
    for schema in schemas.values():
        assert not KNOWS_ALIASES or "prompt to prompt" in schema.search_aliases


def test_no_saved_inversion_is_said(tmp_path, monkeypatch, inversion_nodes):
    """A choice that says so stands where there is nothing to choose."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    (file,) = inversion_nodes.P2PLoadInversion.define_schema().inputs
    assert file.options == ["no inversion is saved yet"]
    with pytest.raises(ValueError, match=r"there is none .* Make one with P2P Save Inversion"):
        inversion_nodes.P2PLoadInversion.execute(file.options[0])
    (tmp_path / "a.p2p.safetensors").touch()
    (file,) = inversion_nodes.P2PLoadInversion.define_schema().inputs
    assert file.options[0] == "a.p2p.safetensors [output]"


def test_an_inversion_is_made_again_only_for_what_it_depends_on(demo, inversion_nodes):
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    fixed = {
        **{"model": demo.model, "clip": demo.clip, "vae": demo.vae},
        **{"latent": {"samples": demo.vae.encode(image)}, "negative": demo.encode("")},
        **{"source_prompt": "a cat", "steps": 2, "cfg": 3.0, "scheduler": "normal"},
        **{"denoise": 0.7, "iterations": 0, "proximal": 0.0, "low_memory": True},
    }

    def paths(method, **settings):
        changing = {"inner_steps": 1, "early_stop": 0.0, "seed": 0}
        return (
            inversion_nodes.P2PNullTextInversion.execute(
                **{**fixed, "method": method, **changing, **settings}
            )
            .args[0]
            .found.trajectory
        )

    for method, ignored, used in (
        ("null-text", {"seed": 5}, {"inner_steps": 0}),
        ("edit-friendly", {"inner_steps": 0, "learning_rate": 0.1}, {"seed": 5}),
        ("ddim", {"seed": 5, "early_stop": 1.0, "low_memory": False}, {"steps": 3}),
    ):
        made = paths(method)
        assert paths(method, **ignored) is made
        assert paths(method, **used) is not made
    made = paths("ddim")
    assert paths("ddim", negative=demo.encode("")) is not made
    made = paths("ddim")
    assert paths("ddim", model=demo.model.clone()) is not made
    latent = {"samples": fixed["latent"]["samples"].clone()}
    assert paths("ddim", latent=latent) is not paths("ddim")
    model = demo.model.clone()
    kept = weakref.ref(paths("ddim", model=model))
    assert kept() is not None
    del model
    gc.collect()
    assert kept() is None


def test_a_preset_stands_in_for_the_windows_ends(pack):
    edits = importlib.import_module(f"{pack.__name__}.nodes.edits")
    others = {"self_replace_start": 0.0, "self_replace_reach": 0.0}
    others |= {"cross_replace_start": 0.0}
    for node, given in (
        (edits.P2PWordSwap, {"words": "cat", "replacement": "dog", "occurrence": 1}),
        (edits.P2PRefine, {"edited_prompt": "a dog", "inject_swapped": True}),
    ):

        def edit(cross, own, node=node, given=given, **more):
            ends = {"cross_replace_end": cross, "self_replace_end": own}
            (link,) = node.execute(**given, **ends, **others, **more).args[0]
            return link.edit

        (combo,) = (one for one in node.define_schema().inputs if one.id == "preset")
        assert combo.options[0] == combo.default == edits.CUSTOM
        for name in combo.options[1:]:
            preset = edits.PRESETS[name]
            assert edit(0.9, 0.1, preset=name) == edit(preset.cross_end, preset.self_end)
        assert edit(0.9, 0.1, preset=combo.default) == edit(0.9, 0.1) != edit(0.9, 0.2)


def test_a_sampled_source_goes_into_every_sampler(demo, latent, pack):
    """As it comes, with a path of no more than a latent a step and the image."""
    source, sampling = (
        importlib.import_module(f"{pack.__name__}.nodes.{name}") for name in ("source", "sampling")
    )
    settings = {"seed": 3, "steps": 3, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
    negative, given = demo.encode(""), {"latent_image": latent, **settings}
    inversion, prompt, start, image = source.P2PSampleSource.execute(
        demo.model, demo.clip, "a red circle on the grass", negative, denoise=1.0, **given
    ).args
    assert start is latent
    assert inversion.found.trajectory.nbytes <= 4 * latent["samples"].nbytes
    encoded = build_controller(demo.clip, prompt, [(WordSwap("red", "blue"),)])
    more = {"negative": negative, "inversion": inversion}
    made = sampling.P2PKSampler.execute(demo.model, encoded, denoise=1.0, **given, **more)
    parts = {"start_at_step": 0, "end_at_step": 10000, "add_noise": True}
    advanced = sampling.P2PKSamplerAdvanced.execute(
        demo.model, encoded, return_with_leftover_noise=False, **parts, **given, **more
    )
    (guider,) = sampling.P2PGuider.execute(demo.model, encoded, cfg=3.0, **more).args
    sigmas = comfy.samplers.calculate_sigmas(demo.model.model.model_sampling, "normal", 3)
    rows = guider.sample(
        comfy.sample.prepare_noise(latent["samples"], 3),
        latent["samples"],
        comfy.samplers.sampler_object("euler"),
        sigmas,
        seed=3,
    )
    for result in (made.args, advanced.args):
        assert torch.equal(result[0]["samples"], image["samples"])
        assert torch.equal(torch.cat([one["samples"] for one in result[:2]]), rows)
    with pytest.raises(ValueError, match="It need not be saved"):
        inversion.save(Path("never.p2p.safetensors"))
