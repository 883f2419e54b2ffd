"""A stored configuration under old names is read under today's."""

import pytest

from restore.config import renames


def test_an_objective_of_old():
    old = {
        "model": "backbone",
        "losses": {
            "reconstruction": {"_target_": "restore.losses.pixel.L1", "range": 2.0},
            "perceptual": {"_target_": "restore.losses.perceptual.Perceptual", "weights": "random"},
        },
        "weights": {"reconstruction": 1.0, "perceptual": 0.0},
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-4},
        "groups": {"extractor": {"lr": 1e-5}},
        "decay": {"warmup": 3, "shape": "step", "every": 7, "factor": 0.5},
        "clip": 1.0,
        "repeat": 2,
    }
    config = {"stages": {"full": {"steps": 1, "objectives": {"restoration": old}}}}
    assert renames.current(config)["stages"]["full"] == {
        "steps": 1,
        "objectives": {
            "restoration": {
                "model": "backbone",
                "losses": {
                    "reconstruction": {
                        "_target_": "restore.losses.pixel.L1",
                        "range": 2.0,
                        "weight": 1.0,
                    },
                    "perceptual": {
                        "_target_": "restore.losses.perceptual.Perceptual",
                        "weights": "random",
                        "weight": 0.0,
                    },
                },
                "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-4},
                "param_groups": {"extractor": {"lr": 1e-5}},
                "lr_schedule": {"warmup_steps": 3, "name": "step", "step_size": 7, "factor": 0.5},
                "clip_grad_norm": 1.0,
                "steps_per_iteration": 2,
            }
        },
    }
    again = renames.current(renames.current(config))
    assert again == renames.current(config), "what is of today stays"


MATCHING = "restore.models.extractors.matching.MatchingExtractor"


def test_an_extractor_of_before_its_matching_was_a_part():
    old = {"_target_": MATCHING, "weights": "random", "trainable": True, "train_matching": False}
    config = {"backbone": {"extractor": {**old, "channels": [4, 8, 8]}}}
    state = {
        "extractor.network.last.1.bias": 1,
        "extractor.at_full.weight": 2,
        "merge.tail1.weight": 3,
    }
    assert renames.tensors(config, state) == {
        "extractor.matching.last.1.bias": 1,
        "extractor.textures.at_full.weight": 2,
        "merge.tail1.weight": 3,
    }
    now = renames.current(config)
    assert now["backbone"]["extractor"] == {
        "_target_": MATCHING,
        "matching": {
            "_target_": "restore.models.matching_network.MatchingNetwork",
            "weights": "random",
        },
        "textures": {
            "_target_": "restore.models.extractors.matching.DetailExtractor",
            "channels": [4, 8, 8],
        },
        "trainable": ["textures"],
    }
    assert renames.current(now) == now
    assert renames.tensors(now, state) == state, "what is of today stays"


@pytest.mark.parametrize("target", ["c2_matching.C2Matching", "datsr.DATSR"])
def test_what_enlarges_got_a_name(target: str):
    config = {"backbone": {"_target_": f"restore.models.backbones.{target}"}}
    old = {"enlarge.0.weight": 1, "enlarge.1.bias": 2, "tail1.weight": 3}
    now = {"enlarge.0.conv.weight": 1, "enlarge.1.conv.bias": 2, "tail1.weight": 3}
    assert renames.tensors(config, old) == now
    assert renames.tensors(config, now) == now, "what is of today stays"


def test_the_contrastive_extractor_of_old_is_the_same_one():
    old = {
        "_target_": "restore.models.extractors.contrastive.ContrastiveExtractor",
        "textures": {"_target_": "restore.models.extractors.vgg19.VGG19Extractor"},
        "matching": {"_target_": "restore.models.extractors.contrastive.ContrastiveStems"},
        "trainable": True,
    }
    now = renames.current({"extractor": old})["extractor"]
    assert now == {**old, "_target_": MATCHING, "trainable": ["textures", "matching"]}
