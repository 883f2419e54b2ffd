"""Number formats that networks run in."""

import pytest
import torch
import torch.nn.functional as F

from restore.models.precision import autocast, convolutions, layout

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# Half a unit in the last place of what the factors are rounded to: 10, 7 and 10 bits, and of sums
# of hundreds of products in 23.
ROUNDING = {"fp32": 2**-22, "tf32": 2**-11, "bf16": 2**-8, "fp16": 2**-11}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ROUNDING)
def test_convolutions_round_as_the_precision_says(precision: str, device: str):
    x, weight = torch.rand(2, 64, 65, 67), torch.rand(64, 64, 3, 3) - 0.5
    exact = F.conv2d(x.double(), weight.double())
    with autocast(precision, device):
        found = F.conv2d(x.to(device), weight.to(device))
    unit = F.conv2d(x.double(), weight.double().abs()).max()  # of sums of rounded products
    error = ((found.double().cpu() - exact).abs().max() / unit).item()
    assert error < 2 * ROUNDING[precision]
    if precision in {"bf16", "fp16"}:  # TF32 is allowed, and taken where it is faster
        assert error > ROUNDING[precision] / 1000


@pytest.mark.parametrize("before", [False, True])
def test_what_was_set_before_holds_after(before: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
    for precision in ROUNDING:
        with convolutions(precision):
            assert torch.backends.cudnn.allow_tf32 == (precision != "fp32")
        assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize(
    ("precision", "device", "asked", "last"),
    [
        ("fp32", "cpu", "auto", True),
        ("fp32", "cuda", "auto", False),
        ("tf32", "cuda", "auto", True),
        ("bf16", "cuda", "auto", True),
        ("fp32", "cuda", True, True),
        ("fp32", "cpu", False, False),
    ],
)
def test_channels_are_last_where_it_pays_or_is_asked(precision, device, asked, last):
    found = layout(precision, device, asked)
    assert found == (torch.channels_last if last else torch.contiguous_format)
