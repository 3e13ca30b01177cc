"""The host's model compilation."""

import logging

import torch
import torch._dynamo.utils
from runs import PROMPT, Settings, call, relative

from p2p_core.edits import SelfInjection, WordSwap
from p2p_core.hosts.comfyui.conditioning import build_controller
from p2p_core.hosts.comfyui.sampling import sample
from p2p_core.schedules import Schedule, Window

SETTINGS = Settings(steps=6)
FEW = Settings(steps=2)
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


def test_the_hosts_node(demo, latent, stock, caplog):
    """Newer hosts' node looks at no options: edited runs, and they alone, are then not compiled."""
    import comfy_extras.nodes_torch_compile as host

    torch._dynamo.reset()
    (model,) = call(host.TorchCompileModel, demo.model, "eager")  # inductor takes minutes
    unguarded = hasattr(host, "skip_torch_compile_dict")
    encoded = build_controller(demo.clip, PROMPT, [(SWAP,)])
    options = {"negative": demo.encode(""), "latent": latent, **vars(FEW)}
    plain = sample(demo.model, encoded, **options)
    two = {"samples": torch.zeros(2, 4, 16, 16)}
    expected = stock(PROMPT, two, FEW)
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            edited = sample(model, encoded, **options)
        assert ("Not compiled while" in caplog.text) == unguarded
        assert relative(edited.source["samples"], plain.source["samples"]) <= 1e-5
        assert relative(edited.edited["samples"], plain.edited["samples"]) <= 1e-5
        assert relative(stock(PROMPT, two, FEW, model=model), expected) <= 1e-5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # the stock run
