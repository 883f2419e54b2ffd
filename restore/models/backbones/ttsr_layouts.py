"""Published TTSR state dicts: which network they belong to, and their names here.

Known are the layouts of the paper's implementation and of a course project's ablations of it:
without ×2, without textures at ×4, with channel attention, with dynamic convolutions; and of a
thesis's variants: reduced features, projections, soft attention. They name scales by level (1: ×1,
2: ×2, 3: ×4). Known too are our own names, as `torch.save(model.state_dict())` writes them.
"""

import math
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from restore.errors import UserError
from restore.models.protocol import Recognised


def recognise(published: Mapping[str, Tensor]) -> Recognised | None:
    """See `Backbone.recognise`.

    Returns None for a state dict of anything else. Raises UserError for one that is a TTSR but
    holds what `TTSR` has no place for.
    """
    head = published.get("MainNet.SFE.conv_head.weight")
    if head is None:
        return _plain(published)
    # The frozen copy of its extractor, for a loss.
    copies = [name for name in published if name.startswith("LTE_copy.")]
    published = {name: value for name, value in published.items() if name not in copies}
    layout = PublishedLevels(published)
    levels = layout.levels
    renamed: dict[str, Tensor] = {}
    counts = [0] * (len(levels) + 1)
    for name, value in published.items():
        own = own_name(name, layout)
        if own is None:
            raise UserError(
                f"the file holds a TTSR variant that is not supported: no place for '{name}'"
            )
        if match := re.match(r"(?:shallow\.trunk|stages\.(\d)\.trunks\.\d)\.(\d+)\.", own):
            place = 0 if match[1] is None else int(match[1]) + 1
            counts[place] = max(counts[place], int(match[2]) + 1)
        renamed.update(_convert(own, value))
    textures = [level for level in levels if f"MainNet.conv{level}{level}_head.weight" in published]
    alone = "MainNet.tail.conv_tail1.weight" in published
    gated = any(".masker." in name for name in published)
    by_channel = any(".squeeze." in name for name in renamed)
    attention, *sizes = _attention(published)
    overrides = [
        "backbone=ttsr",
        "extractor=vgg19",
        f"backbone.blocks={_listed(counts)}",
        f"backbone.scales={_listed([2 ** (level - 1) for level in levels])}",
        f"backbone.textures={_listed([2 ** (level - 1) for level in textures])}",
        f"backbone.features={head.shape[0]}",
        "backbone.global_skip=false",
        "backbone.variance_init=false",
        f"trunk={'dynamic' if gated else 'residual'}",
        f"fusion={'channel' if by_channel else 'score'}",
        attention,
        *sizes,
    ]
    if alone:
        overrides.append("backbone.exchange=null")
    return Recognised(overrides, renamed, assumed=[attention], beside=copies)


def _plain(state: Mapping[str, Tensor]) -> Recognised | None:
    """A state dict under our names; None where it is not TTSR's.

    Of attention it holds the embedding alone; that its rule is hard is assumed, and so is whatever
    else has no weights.
    """
    head = state.get("shallow.head.weight")
    if head is None or "merge.tail1.weight" not in state:
        return None
    features, inputs = head.shape[:2]
    stages = _most(state, r"stages\.(\d+)\.")
    scales, textures = [1], []
    for stage in range(stages):
        enlarge = state.get(f"stages.{stage}.enlarge.conv.weight")
        if enlarge is not None:
            scales.append(scales[-1] * math.isqrt(len(enlarge) // features))
        if f"stages.{stage}.fusion.conv.weight" in state:
            textures.append(scales[-1])
    blocks = [_most(state, r"shallow\.trunk\.(\d+)\.")]
    blocks += [_most(state, rf"stages\.{stage}\.trunks\.0\.(\d+)\.") for stage in range(stages)]
    embedding, more = _embedding(state, features)
    fusion, certain = _fusion(state)
    assumed = [embedding, *more, "backbone.global_skip=false"]
    overrides = [
        "backbone=ttsr",
        f"extractor={'vgg19' if 'extractor.layers.0.weight' in state else 'timm'}",
        f"backbone.blocks={_listed(blocks)}",
        f"backbone.scales={_listed(scales)}",
        f"backbone.textures={_listed(textures)}",
        f"backbone.features={features}",
        f"backbone.details={str('details.weight' in state).lower()}",
        f"trunk={'dynamic' if any('.masker.' in name for name in state) else 'residual'}",
        *([] if any(".exchange." in name for name in state) else ["backbone.exchange=null"]),
        *fusion,
        *assumed,
    ]
    if inputs == 4:  # the fourth is a mask, which another task hands over
        overrides += ["task=partial_sr", "task.coding=mask_channel", "backbone.inputs=4"]
    return Recognised(
        overrides, dict(state), assumed=[*([] if certain else fusion), *assumed], name="TTSR"
    )


def _most(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many parts there are whose numbers, from 0, a pattern captures."""
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def _embedding(state: Mapping[str, Tensor], features: int) -> tuple[str, list[str]]:
    reduce = state.get("attention.embedding.reduce.weight")
    query = state.get("attention.embedding.project_query.weight")
    if query is None and reduce is None:
        return "attention=hard", []
    width = len(reduce) if reduce is not None else query.shape[1]  # type: ignore[union-attr]
    first = state.get("stages.0.fusion.conv.weight")
    values = first is not None and first.shape[1] - features == width
    more = [f"attention.embedding.channels={width}"]
    more += [f"attention.embedding.values={str(values and reduce is not None).lower()}"]
    if query is not None:
        more.append(f"attention.embedding.width={len(query)}")
    return f"attention={'reduced' if query is None else 'projection'}", more


def _fusion(state: Mapping[str, Tensor]) -> tuple[list[str], bool]:
    """The choice of fusion, and whether weights say it for certain."""
    squeezes = [x for name, x in state.items() if name.endswith(".fusion.squeeze.weight")]
    if squeezes:
        reduction = squeezes[0].shape[1] // len(squeezes[0])
        return ["fusion=channel", f"fusion.reduction={reduction}"], True
    if any(name.endswith(".fusion.gain") for name in state):
        return ["fusion=gated"], True
    return ["fusion=score"], False


def _attention(published: Mapping[str, Tensor]) -> list[str]:
    reduction = published.get("reduce_dimensionality.weight")
    if reduction is None:
        return ["attention=hard"]
    # Files of the thesis's soft attention and of its reduced features hold the same entries.
    name = "projection" if "SearchTransfer.w_qs.weight" in published else "soft"
    width = reduction.shape[0]
    return [f"attention={name}_published", f"attention.embedding.channels={width}"]


def _listed(numbers: list[int]) -> str:
    return "[" + ",".join(map(str, numbers)) + "]"


class PublishedLevels:
    """Where in our network a published level, a digit of a name, stands."""

    def __init__(self, published: Mapping[str, Tensor]):
        tails = [f"{stage}{level}" for stage in "123" for level in "123"]
        self.tails = [both for both in tails if f"MainNet.conv{both}_tail.weight" in published]
        self.levels = [int(both[0]) for both in self.tails if both[0] == both[1]]

    def stage(self, level: str) -> int:
        """The place of a level's own stage; ValueError when it has none."""
        return self.levels.index(int(level))

    def member(self, stage: str, level: str) -> str:
        """`stages.I.PARTS.J` for the J-th of the levels that stage I works on, PARTS open."""
        members = [both for both in self.tails if both[0] == stage]
        return f"stages.{self.stage(stage)}.{{}}.{members.index(stage + level)}"


Groups = tuple[str, ...]


def _exchange(groups: Groups, layout: PublishedLevels) -> str:
    # Within an exchange the published names count places, from 1, not levels.
    levels, source, target, step, rest = groups
    path = f"{int(source) - 1}to{int(target) - 1}.convs.{int(step or 1) - 1}.{rest}"
    return f"stages.{layout.stage(levels[-1])}.exchange.paths.{path}"


_BLOCK = r"(\d+\.(?:conv[12]|masker\.maskconv\.(?:fc|conv))\.(?:weight|bias))"

_NAMES: list[tuple[str, Callable[[Groups, PublishedLevels], str]]] = [
    (r"MainNet\.SFE\.conv_(head|tail)\.(.*)", lambda g, at: f"shallow.{g[0]}.{g[1]}"),
    (rf"MainNet\.SFE\.RBs\.{_BLOCK}", lambda g, at: f"shallow.trunk.{g[0]}"),
    (
        r"MainNet\.conv(\d)\1_head\.(.*)",
        lambda g, at: f"stages.{at.stage(g[0])}.fusion.conv.{g[1]}",
    ),
    (
        r"MainNet\.cca(\d)\1_head\.conv_du\.0\.(.*)",
        lambda g, at: f"stages.{at.stage(g[0])}.fusion.squeeze.{g[1]}",
    ),
    (
        r"MainNet\.cca(\d)\1_head\.conv_du\.2\.(.*)",
        lambda g, at: f"stages.{at.stage(g[0])}.fusion.excite.{g[1]}",
    ),
    (
        rf"MainNet\.RB(\d)(\d)\.{_BLOCK}",
        lambda g, at: f"{at.member(g[0], g[1]).format('trunks')}.{g[2]}",
    ),
    (
        r"MainNet\.conv(\d)(\d)_tail\.(.*)",
        lambda g, at: f"{at.member(g[0], g[1]).format('tails')}.{g[2]}",
    ),
    (
        r"MainNet\.conv\d(\d)\.(.*)",
        lambda g, at: f"stages.{at.stage(g[0])}.enlarge.conv.{g[1]}",
    ),
    (
        r"MainNet\.ex(\d+)\.conv_merge(\d)\.(.*)",
        lambda g, at: f"stages.{at.stage(g[0][-1])}.exchange.merges.{int(g[1]) - 1}.{g[2]}",
    ),
    (r"MainNet\.ex(\d+)\.conv(\d)(\d)(?:_(\d))?\.(.*)", _exchange),
    (
        r"MainNet\.merge_tail\.conv(\d)3\.(.*)",
        lambda g, at: f"merge.paths.{at.stage(g[0])}.convs.0.{g[1]}",
    ),
    (r"MainNet\.merge_tail\.conv_merge\.(.*)", lambda g, at: f"merge.merge.{g[0]}"),
    (r"MainNet\.(?:merge_)?tail\.conv_tail(\d)\.(.*)", lambda g, at: f"merge.tail{g[0]}.{g[1]}"),
    (r"reduce_dimensionality\.(.*)", lambda g, at: f"attention.embedding.reduce.{g[0]}"),
    (
        r"SearchTransfer\.w_([qk])s\.weight",
        lambda g, at: f"attention.embedding.project_{'query' if g[0] == 'q' else 'key'}.weight",
    ),
    (r"LTE\.slice\d\.(\d+)\.(.*)", lambda g, at: f"extractor.layers.{g[0]}.{g[1]}"),
    (r"LTE\.sub_mean\.(.*)", lambda g, at: f"extractor.normalisation.{g[0]}"),
]


def own_name(published: str, layout: PublishedLevels) -> str | None:
    """Our name for a published one; None when there is none."""
    for pattern, build in _NAMES:
        if match := re.fullmatch(pattern, published):
            try:
                own = build(match.groups(), layout)
            except ValueError:  # of a level that has no stage
                return None
            return own.replace(".masker.maskconv.", ".masker.")
    return None


def _convert(name: str, value: Tensor) -> dict[str, Tensor]:
    """Weights in our shapes.

    The published 1×1 convolution that normalises colours is one factor and shift a channel here;
    a matrix for unfolded patches is a 3×3 convolution.
    """
    if name.startswith("attention.embedding.project_"):
        return {name: value.reshape(len(value), -1, 3, 3)}
    if name == "extractor.normalisation.weight":
        matrix = value.flatten(1)
        if not torch.equal(matrix, torch.diag(matrix.diagonal())):
            raise UserError("the file's LTE.sub_mean mixes colour channels; TTSR's never does")
        return {"extractor.factor": matrix.diagonal().clone()}
    if name == "extractor.normalisation.bias":
        return {"extractor.shift": value}
    return {name: value}
