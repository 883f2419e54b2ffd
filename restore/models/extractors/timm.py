"""Texture features of any network of the package timm that gives its inner features."""

import difflib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
import torch.nn.functional as F
from timm.layers import freeze_batch_norm_2d
from torch import Tensor

from restore.errors import UserError
from restore.models import checkpoint
from restore.models.extractors import Extractor
from restore.models.normalisation import Normalising
from restore.models.pretrained import (
    PATIENCE,
    MissingWeights,
    Provenance,
    failure,
    note_failure,
)
from restore.utils.foreign import at_home

_STRIDES = (1, 2, 4)


class TimmExtractor(Normalising, Extractor):
    """Of its features those whose strides come nearest to 1, 2 and 4, brought to these.

    Where strides differ, features are interpolated bilinearly. Batch normalisation keeps the
    statistics and factors that it has: a batch of references says nothing of the next.

    Args:
        model: as timm names it (`timm.list_models()`).
        weights: `imagenet` (what timm publishes for it, from its cache or fetched), `random`
            (always the same ones), or the path of a state dict of the whole network.
        trainable: whether training may change it.
        levels: which of its features, counted from 0, become the full, half and quarter
            resolution; None: those of the nearest strides.
        cache: folder of fetched files; None: timm's (the Hugging Face hub's).
        download: whether the file may be fetched.

    Raises:
        UserError: timm has no such network, or one without inner features; weights that do not fit.
        MissingWeights: the published weights are not to be had.
    """

    reach = None  # not among what timm tells

    def __init__(
        self,
        model: str,
        weights: str,
        trainable: bool = True,
        levels: tuple[int, int, int] | None = None,
        cache: str | None = None,
        download: bool = True,
    ):
        super().__init__()
        with torch.device("meta"):
            about, _ = features_of(model, "random")
        strides = about.feature_info.reduction()
        if levels is None:
            # Of equally near ones the finer, which shows more.
            first, second, third = (
                min(range(len(strides)), key=lambda i: (abs(math.log2(strides[i] / s)), strides[i]))
                for s in _STRIDES
            )
            levels = first, second, third
        elif not all(0 <= level < len(strides) for level in levels):
            raise UserError(
                f"extractor.levels={[*levels]}: {model} has {len(strides)} levels, numbered from 0"
            )
        outputs = sorted({*levels})
        self.levels = [outputs.index(level) for level in levels]
        network, self.provenance = features_of(model, weights, outputs, cache, download)
        counts = network.feature_info.channels()
        first, second, third = (counts[level] for level in self.levels)
        self.channels = first, second, third
        published = network.pretrained_cfg
        self.set_normalisation(published["mean"], published["std"])
        self.channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        self.network = freeze_batch_norm_2d(network).requires_grad_(trainable)

    def forward(self, image: Tensor) -> list[Tensor]:
        features = self.network(self.normalised(image))
        if self.channels_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        outputs = []
        for level, stride in zip(self.levels, _STRIDES):
            feature = features[level]
            size = (image.shape[-2] // stride, image.shape[-1] // stride)
            if feature.shape[-2:] != size:
                feature = F.interpolate(feature, size, mode="bilinear", align_corners=False)
            outputs.append(feature)
        return outputs


def features_of(
    model: str,
    weights: str,
    levels: Sequence[int] | None = None,
    cache: str | None = None,
    download: bool = True,
) -> tuple[Any, Provenance]:
    """A network of timm that returns its inner features, with what it says of them.

    Args:
        model: as timm names it.
        weights: `imagenet` (what timm publishes for it), `random` (always the same ones), or the
            path of a state dict of the whole network.
        levels: which features; None: all.
        cache: folder of fetched files; None: timm's.
        download: whether the file may be fetched.

    Raises:
        UserError: timm has no such network or it gives no features; a file that does not fit.
        MissingWeights: what timm publishes is not in the cache, and fetching failed.
    """
    options: dict[str, Any] = {"features_only": True, "exportable": True}
    if levels is not None:
        options["out_indices"] = tuple(levels)
    if ":" in model:  # timm would take a folder's word, or a stranger's, for what the network is
        raise UserError(f"extractor.model={model}: only networks of timm's own are known")
    cache = at_home(cache) if cache else None
    name, path = f"timm's {model}", ""
    if weights not in ("random", "imagenet"):
        path = at_home(weights)
        options |= {
            "pretrained": True,
            "pretrained_cfg_overlay": {"state_dict": checkpoint.read(Path(path))},
        }
    elif weights == "imagenet":
        options |= {"pretrained": True, "cache_dir": cache} | _from_hub(model, cache, download)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = timm.create_model(model, **options)
    except OSError as error:  # the Hugging Face hub's
        raise _missing(model, note_failure(str(error).splitlines()[0])) from error
    except (RuntimeError, AttributeError, AssertionError, TypeError, KeyError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        near = difflib.get_close_matches(model, timm.list_models(), 3)
        hint = f"; did you mean {' or '.join(near)}?" if near and model not in near else ""
        raise UserError(
            f"extractor.model={model}: timm gives no inner features of it ({reason}){hint}"
        ) from error
    if weights == "random":
        return network, Provenance(name, "random")
    if weights == "imagenet":
        about: Any = network.pretrained_cfg
        return network, Provenance(name, "imagenet", f"the tag {about['tag']}", official=True)
    return network, Provenance(name, "file", path, checkpoint.fingerprint(Path(path)))


def _from_hub(model: str, cache: str | None, download: bool) -> dict[str, Any]:
    """Options for timm to take a network's published weights of the hub's cache, or to fetch them.

    timm's own way asks the hub in any case, and waits most of a minute where there is no network.
    """
    about = timm.get_pretrained_cfg(model)
    hub = (about.hf_hub_id if about is not None else None) or ""
    for file in ("model.safetensors", "pytorch_model.bin") if hub else ():
        cached = huggingface_hub.try_to_load_from_cache(hub, file, cache_dir=cache)
        if isinstance(cached, str):
            return {"pretrained_cfg_overlay": {"state_dict": checkpoint.read(Path(cached))}}
    if not download:
        raise _missing(model, "pretrained.download=false")
    if failure() is None and hub:
        try:
            endpoint = huggingface_hub.constants.ENDPOINT
            huggingface_hub.get_session().head(endpoint, timeout=PATIENCE)
        except Exception as error:  # of whichever client the hub's package has
            note_failure(f"{endpoint}: {error}")
    if (reason := failure()) is not None:
        raise _missing(model, reason)
    return {}


def _missing(model: str, reason: str) -> MissingWeights:
    return MissingWeights(
        f"the weights that timm publishes for {model} cannot be downloaded ({reason}); give "
        "extractor.weights=FILE, or extractor.weights=random"
    )
