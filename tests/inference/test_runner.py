"""Networks and tasks that do not go together."""

import pytest
import torch

from restore.config import registry
from restore.errors import UserError
from restore.inference.runner import check_scale


@pytest.mark.parametrize(
    ("backbone", "task", "fits"),
    [
        ("masa", "reference_sr", True),
        ("masa", "reference_sr,task.scale=2", False),
        ("matching", "reference_sr,task.scale=8", False),
        ("ttsr", "partial_sr", True),
        ("palette", "inpainting", True),
        ("asdn", "any_scale,task.scale=3", True),
        ("wdsr_b,backbone.scale=2", "single_sr,task.scale=2", True),
        ("wdsr_b,backbone.scale=2", "single_sr,task.scale=3", False),
    ],
)
def test_the_network_enlarges_as_the_task_wants(backbone: str, task: str, fits: bool):
    random = ["pretrained.vgg19=random"] if backbone in ("ttsr", "masa") else []
    with torch.device("meta"):
        model = registry.build("backbone", *backbone.split(","), *random)
    problem = registry.build("task", *task.split(","))
    if fits:
        check_scale(model, problem)
    else:
        with pytest.raises(UserError, match=r"^task\.scale=\d+: the task wants"):
            check_scale(model, problem)
