"""Published state dicts of MASA-SR, C2-Matching and DATSR: what they are, and their names here."""

import math
import re
from collections.abc import Mapping

from torch import Tensor

from restore.models.backbones.layouts import Table, count, matched
from restore.models.protocol import Recognised

_SIZES = ("small", "medium", "large")
_STEPS = ("down_large", "down_medium", "up_small", "up_medium", "up_large")
_INSIDE = r"dyn_agg_restore\."


def masa(published: Mapping[str, Tensor]) -> Recognised | None:
    """MASA-SR's; its pictures are BGR, ours RGB."""
    levels = {"L3": 0, "L2": 1, "L1": 2, "x1": 3, "x2": 4, "x4": 5}
    table: Table = [
        (r"enc\.conv_L(\d)", lambda g: f"extractor.heads.{int(g[1]) - 1}"),
        (
            r"enc\.blk_L(\d)\.(\d+)\.(conv[12])",
            lambda g: _block("extractor.trunks", int(g[1]) - 1, g),
        ),
        (r"decoder\.conv_L(\d)", lambda g: f"contexts.{3 - int(g[1])}"),
        (r"decoder\.blk_(\w\d)\.(\d+)\.(conv[12])", lambda g: _block("trunks", levels[g[1]], g)),
        (r"decoder\.merge_warp_x1", "fusion.conv"),
        (r"decoder\.dram_x(\d)\.conv_cat", lambda g: f"aggregations.{int(g[1]) // 4}.merge"),
        (
            r"decoder\.dram_x(\d)\.conv_(down|up)_([ab])",
            lambda g: f"aggregations.{int(g[1]) // 4}.{g[2]}_{g[3]}",
        ),
        (r"decoder\.pAda\.conv_shared\.0", "adapt.shared"),
        (r"decoder\.pAda\.conv_(gamma|beta)", r"adapt.\1"),
        (r"decoder\.conv_out", "tail"),
    ]
    state = matched(
        published, table, ["extractor.heads.0", "adapt.gamma", "aggregations.0.up_a"], "MASA"
    )
    if state is None:
        return None
    state["extractor.heads.0.weight"] = state["extractor.heads.0.weight"].flip(1)
    # Textures come first there, features here.
    features = len(state["tail.weight"][0])
    state["fusion.conv.weight"] = state["fusion.conv.weight"].roll(features, 1)
    for name in ("tail.weight", "tail.bias"):
        state[name] = state[name].flip(0)
    blocks = [count(state, rf"trunks\.{place}\.\d+\.conv1\.bias") for place in range(6)]
    own = [count(state, rf"extractor\.trunks\.{place}\.\d+\.conv1\.bias") for place in range(3)]
    overrides = [
        "backbone=masa",
        f"backbone.features={features}",
        f"backbone.blocks={blocks}".replace(" ", ""),
        f"extractor.features={features}",
        f"extractor.blocks={own}".replace(" ", ""),
    ]
    return Recognised(overrides, state)


def _block(trunks: str, place: int, groups: re.Match[str]) -> str:
    return f"{trunks}.{place}.{groups[2]}.{groups[3]}"


def c2_matching(published: Mapping[str, Tensor]) -> Recognised | None:
    """C2-Matching's restoration network, without its extractor and VGG19."""
    place = {size: i for i, size in enumerate(_SIZES)}
    sizes = "(small|medium|large)"
    table: Table = [
        (r"content_extractor\.conv_first", "head"),
        (r"content_extractor\.body\.(\d+)\.(conv[12])", r"content.\1.\2"),
        *_fetching(_SIZES),
        (rf"{_INSIDE}head_{sizes}\.0", lambda g: f"stages.{place[g[1]]}.fusion.conv"),
        (
            rf"{_INSIDE}body_{sizes}\.(\d+)\.(conv[12])",
            lambda g: f"stages.{place[g[1]]}.trunk.{g[2]}.{g[3]}",
        ),
        (rf"{_INSIDE}tail_(small|medium)\.0", lambda g: f"enlarge.{place[g[1]]}.conv"),
        (rf"{_INSIDE}tail_large\.0", "tail1"),
        (rf"{_INSIDE}tail_large\.2", "tail2"),
    ]
    layers = ["head", "stages.2.transfer.offset_mask", "stages.0.fusion.conv", "enlarge.1.conv"]
    state = matched(published, table, layers, "C2-Matching")
    if state is None or "shrink.0.weight" in state:
        return None
    content = count(state, r"content\.\d+\.conv1\.bias")
    blocks = count(state, r"stages\.0\.trunk\.\d+\.conv1\.bias")
    overrides = [
        "backbone=c2_matching",
        f"backbone.features={len(state['head.bias'])}",
        f"backbone.content_blocks={content}",
        f"backbone.blocks={blocks}",
        f"transfer.groups={len(state['stages.0.transfer.offset_mask.bias']) // 27}",
    ]
    return Recognised(overrides, state, parts=_without(state))


def datsr(published: Mapping[str, Tensor]) -> Recognised | None:
    """DATSR's restoration network, without its extractor and VGG19."""
    place = {step: i for i, step in enumerate(_STEPS)}
    body = rf"{_INSIDE}(down|up)_body_(\w+)"
    group = rf"{body}\.layers\.(\d+)"

    def trunk(g: re.Match[str]) -> str:
        return f"stages.{place[f'{g[1]}_{g[2]}']}.trunk"

    # What windows and sizes give.
    computed = (".attn_mask", ".relative_position_index")
    kept = {name: value for name, value in published.items() if not name.endswith(computed)}
    table: Table = [
        (r"content_extractor\.conv_first", "unused.0"),
        (r"content_extractor\.body\.(\d+)\.(conv[12])", r"unused.1.\1.\2"),
        (rf"{_INSIDE}unet_head", "head"),
        *_fetching(_STEPS),
        (
            rf"{_INSIDE}(down|up)_head_(\w+)\.0",
            lambda g: f"stages.{place[f'{g[1]}_{g[2]}']}.fusion.conv",
        ),
        (rf"{body}\.patch_embed\.norm", lambda g: f"{trunk(g)}.embed_norm"),
        (rf"{body}\.norm", lambda g: f"{trunk(g)}.norm"),
        (rf"{group}\.conv", lambda g: f"{trunk(g)}.convs.{g[3]}"),
        (
            rf"{group}\.residual_group\.blocks\.(\d+)\.(.+)",
            lambda g: f"{trunk(g)}.groups.{g[3]}.{g[4]}.{g[5]}",
        ),
        (rf"{_INSIDE}down_tail_(large|medium)", lambda g: f"shrink.{place[f'down_{g[1]}']}"),
        (
            rf"{_INSIDE}up_tail_(small|medium)\.0",
            lambda g: f"enlarge.{place[f'up_{g[1]}'] - 2}.conv",
        ),
        (rf"{_INSIDE}up_tail_large\.0", "tail1"),
        (rf"{_INSIDE}up_tail_large\.2", "tail2"),
    ]
    layers = ["head", "stages.4.transfer.offset_mask", "shrink.1", "enlarge.1.conv"]
    state = matched(kept, table, layers, "DATSR")
    if state is None:
        return None
    first = "stages.0.trunk.groups"
    bias = state[f"{first}.0.0.attn.relative_position_bias_table"]
    depth = count(state, r"stages\.0\.trunk\.groups\.0\.\d+\.norm1\.bias")
    groups = count(state, r"stages\.0\.trunk\.convs\.\d+\.bias")
    unused = count(state, r"unused\.1\.\d+\.conv1\.bias") if "unused.0.bias" in state else "null"
    overrides = [
        "backbone=datsr",
        f"backbone.features={len(state['head.bias'])}",
        f"backbone.blocks={groups}",
        f"backbone.unused_blocks={unused}",
        f"trunk.depth={depth}",
        f"trunk.heads={bias.shape[1]}",
        f"trunk.window={(math.isqrt(bias.shape[0]) + 1) // 2}",
        f"transfer.groups={len(state['stages.0.transfer.offset_mask.bias']) // 27}",
    ]
    return Recognised(overrides, state, parts=_without(state))


def _fetching(steps: tuple[str, ...]) -> Table:
    """What fetches the textures of each step, in their order."""
    name = f"({'|'.join(steps)})"
    return (
        (
            rf"{_INSIDE}{name}_offset_conv([12])",
            lambda g: f"stages.{steps.index(g[1])}.transfer.offset{g[2]}",
        ),
        (
            rf"{_INSIDE}{name}_dyn_agg\.conv_offset_mask",
            lambda g: f"stages.{steps.index(g[1])}.transfer.offset_mask",
        ),
        (
            rf"{_INSIDE}{name}_dyn_agg",
            lambda g: f"stages.{steps.index(g[1])}.transfer.aggregate",
        ),
    )


def _without(state: Mapping[str, Tensor]) -> list[str]:
    """The parts of a network that the file leaves to others'."""
    return [] if any(name.startswith("extractor.") for name in state) else ["extractor"]
