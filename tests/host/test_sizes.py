"""Images whose sides the UNet cannot halve without rounding."""

import pytest
import torch
from runs import PROMPT, Settings, relative, run_of

from p2p_core.edits import SelfInjection, WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.viewing import look
from p2p_core.schedules import Schedule, Window

SETTINGS = Settings(steps=2)


@pytest.fixture
def latent():
    """Layers of 17×21, 9×11 and 5×6 cells."""
    return {"samples": torch.zeros(1, 4, 17, 21)}


def test_reach_counts_layers_by_how_often_they_were_halved(p2p, latent):
    """The smallest ones are a quarter of the latent's side and a bit, and count as a quarter."""
    never = Schedule(Window(0, 0))
    chains = [
        (WordSwap("circle", "star", 1, never, SelfInjection(Window(), reach)),)
        for reach in (0.2, 0.25, 0.4, 0.5, 1.0)
    ]
    _, edited = p2p(chains, latent, SETTINGS)
    none, quarter, between, half, full = edited.split(1)
    assert torch.equal(between, quarter)
    for smaller, larger in ((none, quarter), (quarter, half), (half, full)):
        assert relative(larger, smaller) > 1e-4


@pytest.mark.parametrize(("side", "cells"), [(1.0, (17, 21)), (0.5, (9, 11)), (0.25, (5, 6))])
def test_every_layers_maps_can_be_looked_at(side, cells, demo, latent):
    encoded = build_controller(demo.clip, PROMPT, [(WordSwap("circle", "star"),)])
    run = run_of(demo.model, encoded, latent, negative=demo.encode(""), **vars(SETTINGS))
    (star,) = look(run, ["star"], side, Window())
    assert star.mean.shape == cells
    assert star.steps.shape == (SETTINGS.steps, *cells)


@pytest.mark.parametrize(("size", "same"), [((16, 64), 1.0), ((28, 40), 0.5)])
def test_automatic_reach_counts_cells(size, same, p2p):
    """Layers of up to 32² cells: all of a latent of 16×64, and the halved ones of 28×40."""
    never = Schedule(Window(0, 0))
    chains = [
        (WordSwap("circle", "star", 1, never, SelfInjection(Window(), reach)),)
        for reach in (None, 0.25, 0.5, 1.0)
    ]
    _, edited = p2p(chains, {"samples": torch.zeros(1, 4, *size)}, SETTINGS)
    automatic, *others = edited.split(1)
    alike = [relative(automatic, other) <= 1e-4 for other in others]
    assert alike == [reach == same for reach in (0.25, 0.5, 1.0)]


def test_the_nodes_reach_is_automatic_at_0(pack):
    """And what older workflows hold, 1, is every layer as it was."""
    from prompt_to_prompt_pack.nodes import edits as nodes

    for node in (nodes.P2PWordSwap, nodes.P2PRefine):
        inputs = {one.id: one for one in node.define_schema().inputs}
        assert inputs["self_replace_reach"].default == 0.0
    windows = (0.8, 0.4, 0.0, 0.0)
    for given, meant in ((0.0, None), (0.25, 0.25), (1.0, 1.0)):
        (swap,) = nodes.P2PWordSwap.execute("a", "b", 1, *windows, given).args[0]
        assert swap.edit.self_injection.reach == meant
    (fader,) = nodes.P2PReweight.execute("a", 2.0, nodes.FOLLOW, 0.0, 1.0, 0.4).args[0]
    assert fader.edit.self_injection.reach is None
