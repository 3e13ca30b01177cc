"""Training of the demo models: `python -m p2p_core.demo.training`."""
