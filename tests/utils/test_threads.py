"""Work on several threads, each alone with its part."""

import threading

import pytest
import torch

from restore.utils import threads


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_every_part_is_done_on_threads_of_one_core_each():
    seen: dict[int, tuple[int, int, bool, bool]] = {}

    def work(part: int) -> None:
        own = torch.get_num_threads()
        inference = torch.is_inference_mode_enabled()
        seen[part] = (threading.get_ident(), own, torch.is_grad_enabled(), inference)

    for inference in (False, True):
        seen.clear()
        with torch.inference_mode(inference):
            threads.each(work, range(20))
        assert sorted(seen) == list(range(20))
        assert {own[1:] for own in seen.values()} == {(1, False, inference)}
        assert threading.get_ident() not in {own[0] for own in seen.values()}
    assert torch.get_num_threads() == 3
    counts: list[int] = []
    later = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert counts == [3], "nobody else's number is another"


def test_what_a_part_raises_is_raised():
    def work(part: int) -> None:
        if part == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        threads.each(work, range(4))
