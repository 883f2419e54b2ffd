"""Normalisation that does not depend on the picture, made part of the convolutions."""

from itertools import pairwise

from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fuse_batch_norm(model: nn.Module) -> nn.Module:
    """Makes plain weights of normalised ones, and folds batch normalisation into convolutions.

    The network computes what it did in evaluation mode, in less time; it cannot be trained on, and
    its state dict has other names.

    Args:
        model: in evaluation mode; changed in place. A batch normalisation is folded where it
            follows a convolution in an `nn.Sequential`.
    """
    assert not model.training, "batch statistics are part of training"
    for part in [*model.modules()]:
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)
            # What it leaves behind is no parameter, so it would stay behind on the CPU.
            weight = part.weight.detach()  # type: ignore[operator]
            del part.weight
            part.weight = nn.Parameter(weight)
        if isinstance(part, nn.Sequential):
            for place, (layer, norm) in enumerate(pairwise([*part])):
                if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    part[place] = fuse_conv_bn_eval(layer, norm)
                    part[place + 1] = nn.Identity()
    return model
