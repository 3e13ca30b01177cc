"""ControlNets of the demo model's layers, with random weights."""

from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import torch


def control_network(model: Any) -> Any:
    """The network alone, of an image at the pixels' size."""
    config = model.model.model_config.unet_config
    config = {key: value for key, value in config.items() if key != "out_channels"}
    config["transformer_depth"] = list(config["transformer_depth"])
    network = comfy.cldm.cldm.ControlNet(
        hint_channels=3, operations=comfy.ops.disable_weight_init, device="cpu", **config
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    return network


def control_net(model: Any, kind: type[Any] = comfy.controlnet.ControlNet) -> Any:
    """The host's ControlNet, or one of a subclass."""
    return kind(control_network(model), load_device=torch.device("cpu"))


class LastAgain(comfy.controlnet.ControlNet):
    """Fits hints, masks and strengths to a batch as Advanced-ControlNet does.

    Where there are too few, the last one serves the rest. `strengths` holds one an image of a
    batch (its latent keyframes), 0 for images beyond; what the negative prompt gets is halved.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.mask_cond_hint_original: torch.Tensor | None = None
        self.strengths: list[float] = []

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        hint, images = self.cond_hint_original, len(x_noisy) // batched_number
        self.cond_hint_original, self.cond_hint = self._extended(hint, images), None
        self._kinds, self._images = transformer_options["cond_or_uncond"], images
        assert len(self._kinds) == batched_number
        try:
            return super().get_control(x_noisy, t, cond, batched_number, transformer_options)
        finally:
            self.cond_hint_original = hint

    def control_merge(self, control, control_prev, output_dtype):
        strengths = torch.tensor([*self.strengths, *[0.0] * self._images][: self._images])
        strengths = torch.cat([strengths / (1 + kind) for kind in self._kinds])[:, None, None, None]
        masks = self._extended(self.mask_cond_hint_original, self._images)
        masks = masks.repeat(len(self._kinds), 1, 1)[:, None]
        control = {
            part: [
                x * strengths * torch.nn.functional.interpolate(masks, x.shape[-2:]) for x in layers
            ]
            for part, layers in control.items()
        }
        return super().control_merge(control, control_prev, output_dtype)

    @staticmethod
    def _extended(tensor: torch.Tensor, images: int) -> torch.Tensor:
        last = tensor[-1:].expand(images, *[-1] * (tensor.ndim - 1))
        return torch.cat([tensor, last])[:images]

    def copy(self):
        own = LastAgain(None, load_device=self.load_device)
        own.control_model = self.control_model
        own.control_model_wrapped = self.control_model_wrapped
        self.copy_to(own)
        own.mask_cond_hint_original = self.mask_cond_hint_original
        own.strengths = self.strengths
        return own
