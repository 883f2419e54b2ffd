"""The tests draw the same every time: `make test` passes or fails, whoever runs it and when."""

import random
import subprocess

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from tests import ROOT

drawn: list[list[float]] = []


@pytest.mark.parametrize("time", [1, 2])
def test_what_is_drawn_without_a_seed_is_drawn_again(time: int):
    drawn.append([random.random(), float(np.random.rand()), float(torch.rand(()))])  # noqa: NPY002
    assert drawn == [drawn[0]] * len(drawn)


def test_examples_are_the_same_and_none_is_kept():
    examples: list[list[object]] = []

    @hypothesis.settings(max_examples=20)
    @hypothesis.given(st.integers(), st.floats())
    def test(number: int, real: float) -> None:
        examples[-1].append((number, repr(real), float(torch.rand(()))))

    for _ in range(2):
        examples.append([])
        test()
        torch.rand(7)
    assert len(examples[0]) >= 20
    assert len(set(map(str, examples[0]))) > 10
    assert examples[0] == examples[1]
    assert hypothesis.settings().database is None
    assert hypothesis.settings().deadline is None, "how fast the machine is decides nothing"


def test_other_examples_can_be_drawn_and_drawn_again():
    def command(*words: str) -> str:
        line = ["make", "-n", "explore", "PYTHON=python3", *words]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert command() != command()
    assert command("SEED=7") == command("SEED=7")
    assert "make explore SEED=7" in command("SEED=7")
    assert "--hypothesis-profile=explore --hypothesis-seed=7" in command("SEED=7")
