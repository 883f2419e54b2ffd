"""A stored configuration under old names is read under today's."""

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
