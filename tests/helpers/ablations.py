"""The course project's variants of TTSR."""

from restore.tools.bench import plain_ttsr

# Published name → overrides that make the network at its published size, its parameter count with
# two extractors, and the plain formulation of its main network.
VARIANTS = {
    "suite_3_1": (
        ["backbone.scales=[1,4]", "backbone.textures=[1,4]", "backbone.blocks=[16,16,4]"],
        5_348_635,
        plain_ttsr.without_x2,
    ),
    "suite_3_2": (
        [
            "backbone.scales=[1,4]",
            "backbone.textures=[1]",
            "backbone.exchange=null",
            "backbone.blocks=[16,16,4]",
        ],
        4_675_867,
        plain_ttsr.without_x4_fusion,
    ),
    "suite_6_1": (["fusion=channel"], 7_305_091, plain_ttsr.three_scales),
    "suite_8": (["trunk=dynamic"], 7_315_795, plain_ttsr.three_scales),
}
