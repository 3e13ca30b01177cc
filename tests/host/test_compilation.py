"""The host's model compilation."""

import torch
from runs import PROMPT, Settings, relative

from p2p_core.edits import SelfInjection, WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.sampling import sample
from p2p_core.schedules import Schedule, Window

SETTINGS = Settings(steps=6)
SWAP = WordSwap(
    "circle",
    "star",
    schedule=Schedule(Window(0, 0.5)),
    self_injection=SelfInjection(Window(0, 0.5), reach=0.5),
)


def test_a_window_costs_one_more_graph_and_nothing_else(demo, latent):
    """The network stays in one piece: one graph while the edit acts, one while it does not."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model = demo.model.clone()
    set_torch_compile_wrapper(model, backend=backend)
    encoded = build_controller(demo.clip, PROMPT, [(SWAP,)])
    options = {"negative": demo.encode(""), "latent": latent, **vars(SETTINGS)}
    compiled = sample(model, encoded, **options)
    plain = sample(demo.model, encoded, **options)
    assert len(graphs) == 2
    assert relative(compiled.source["samples"], plain.source["samples"]) <= 1e-5
    assert relative(compiled.edited["samples"], plain.edited["samples"]) <= 1e-5
