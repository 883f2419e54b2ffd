"""Networks that draw take several pictures at once, and each gets what it would get alone."""

import pytest
import torch

from restore.config.settings import Runtime
from restore.inference.drawn import KeepingRunner
from restore.inference.runner import Runner, evaluating
from restore.types import Problem
from tests.helpers import palette


def problems(sizes: list[tuple[int, int]]) -> list[Problem]:
    rng = torch.Generator().manual_seed(2)
    asked = []
    for place, (height, width) in enumerate(sizes):
        mask = torch.zeros(1, 1, height, width)
        mask[..., 2 : 5 + place, 3:9] = 1
        inputs = {"low_up": torch.rand(1, 3, height, width, generator=rng), "mask_up": mask}
        asked.append(Problem(inputs, None, [f"picture {place}"]))
    return asked


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_of_any_size_change_no_result(batch_size, samples):
    asked = problems([(12, 16), (16, 12), (12, 16), (12, 16), (16, 12)])
    model = palette.tiny(steps=3, samples=samples, batch_size=batch_size)
    runner = Runner(model, Runtime("cpu", 1, "fp32", False, False, 1), torch.device("cpu"))
    sizes = []
    model.denoise_fn.register_forward_hook(lambda _, given, answer: sizes.append(len(answer)))
    with evaluating(model):
        together = runner.each(asked)
        calls = len(sizes)
        alone = [runner(problem) for problem in asked]
    assert max(sizes[:calls]) == min(batch_size, 3 * samples)
    for one, answer in zip(alone, together):
        pairs = [(one.image, answer.image), *zip(one.samples, answer.samples, strict=True)]
        for expected, image in pairs:
            torch.testing.assert_close(image, expected, atol=1e-4, rtol=0)


def test_go_on_with_what_is_missing(tmp_path):
    asked = problems([(12, 16)] * 3)
    model = palette.tiny(steps=2)
    runner = Runner(model, Runtime("cpu", 1, "fp32", False, False, 1), torch.device("cpu"))
    keeping = KeepingRunner(runner, tmp_path / "kept", "mark")
    with evaluating(model):
        (second,) = keeping.each(asked[1:2])
        sizes = []
        model.denoise_fn.register_forward_hook(lambda _, given, answer: sizes.append(len(answer)))
        answers = keeping.each(asked)
    assert sizes == [2, 2], "two steps of the two others"
    assert torch.equal(answers[1].image, second.image)
    assert not torch.equal(answers[0].image, answers[1].image)
