"""Where networks are trained: the processor, or an accelerator where there is one."""

import torch
from torch import nn

from mammo_ml.errors import BadInputError


def device_named(name: str) -> torch.device:
    """The device of this name, as in torch: cpu, cuda, cuda:1, mps; `auto` is an accelerator, else the processor.

    Raises:
        BadInputError: when there is no such device here.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return accelerator or torch.device("cpu")
    device = torch.device(name)
    if device.type == "cpu":
        return device
    kind, count = (accelerator.type, torch.accelerator.device_count()) if accelerator else ("", 0)
    if device.type != kind or (device.index or 0) >= count:
        here = ", ".join(["cpu", *(f"{kind}:{n}" for n in range(count))])
        raise BadInputError("training.device", [f"{name} is not here: there is {here}"], "Take one of these, or auto.")
    return device


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are, and where what it is given must be; cpu for one without any."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device
