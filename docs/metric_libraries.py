"""What torchmetrics, torch-fidelity and lpips give for LPIPS, FID and KID on the same pictures.

    python docs/metric_libraries.py PHOTOS [ALEXNET [INCEPTION]]

PHOTOS is a folder of pictures; each is shrunk to a quarter and enlarged again by bicubic, and that
is measured against the picture. Without an Inception file (torch-fidelity's) one of random weights
takes its place: its numbers say nothing of quality, but differ between libraries as others do.
"""

import sys
import tempfile
import time
from pathlib import Path

import lpips
import torch
from torch_fidelity import calculate_metrics
from torchmetrics.functional.image.lpips import _LPIPS
from torchmetrics.image import FrechetInceptionDistance, KernelInceptionDistance
from torchvision import models

from restore.data.degradation import pil_resize
from restore.images.io import by_name, read_rgb, save_png
from restore.metrics.image_metric import About, ImageMetric
from restore.metrics.perceptual import FID, KID, LPIPS, Inception

ABOUT = About(4)


def pictures(folder: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Enlarged and true pictures, uint8 13HW, cut to multiples of 4."""
    pairs = []
    for path in by_name(Path(folder)).values():
        true = read_rgb(path)
        height, width = (side // 4 * 4 for side in true.shape[-2:])
        true = true[:, :height, :width].contiguous()
        low = pil_resize(true, height // 4, width // 4)
        pairs.append((pil_resize(low, height, width)[None], true[None]))
    return pairs


def made_up_inception(path: Path) -> None:
    """A file as torch-fidelity's, of random weights."""
    torch.manual_seed(0)
    model = models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    torch.save(model.state_dict(), path)


def said(name: str, value: float, began: float) -> None:
    """One line of the table."""
    print(f"| {name} | {value:.6f} | {time.perf_counter() - began:.1f} |", flush=True)


def measured_by_lpips(pairs: list[tuple[torch.Tensor, torch.Tensor]], alexnet: Path) -> None:
    """LPIPS of every library, with the same trunk."""
    began = time.perf_counter()
    ours = ImageMetric("lpips", LPIPS(str(alexnet)))
    values = [ours.value(x / 255, y / 255, ABOUT) for x, y in pairs]
    said("LPIPS, here (package lpips, 8 bits)", sum(values) / len(values), began)
    net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    net.load_state_dict(ours.metric.get_submodule("net").state_dict())
    # torchmetrics has a copy of the network that fetches its trunk itself; here it takes ours.
    began = time.perf_counter()
    copied = _LPIPS(pretrained=True, net="alex", pnet_rand=True).eval()
    copied.net.load_state_dict(net.net.state_dict())
    values = [copied(x / 127.5 - 1, y / 127.5 - 1).item() for x, y in pairs]
    said("LPIPS, torchmetrics", sum(values) / len(values), began)
    # What networks give is no whole number of 255ths; a result that was not rounded has this much.
    torch.manual_seed(0)
    began = time.perf_counter()
    values = [
        net(((x + torch.rand(x.shape) - 0.5) / 127.5 - 1).clamp(-1, 1), y / 127.5 - 1).item()
        for x, y in pairs
    ]
    said("LPIPS, package lpips, not rounded to 8 bits", sum(values) / len(values), began)


def measured_by_inception(pairs: list[tuple[torch.Tensor, torch.Tensor]], file: Path) -> None:
    """FID and KID of every library, with the same network."""
    for title, metric in (("FID", FID), ("KID", KID)):
        began = time.perf_counter()
        ours = ImageMetric(title, metric(Inception(str(file))))
        for x, y in pairs:
            ours.update(x / 255, y / 255, ABOUT)
        said(f"{title}, here", ours.compute(), began)
    count = len(pairs)
    with tempfile.TemporaryDirectory() as root:
        for place, pair in enumerate(pairs):
            for kind, picture in zip(("enlarged", "true"), pair):
                path = Path(root) / kind / f"{place:04d}.png"
                path.parent.mkdir(exist_ok=True)
                save_png(path, picture[0])
        began = time.perf_counter()
        values = calculate_metrics(
            input1=f"{root}/enlarged",
            input2=f"{root}/true",
            fid=True,
            kid=True,
            kid_subsets=1,
            kid_subset_size=count,
            batch_size=1,
            cuda=False,
            feature_extractor_weights_path=str(file),
            cache=False,
            verbose=False,
        )
        said("FID, torch-fidelity", values["frechet_inception_distance"], began)
        said("KID, torch-fidelity, one subset", values["kernel_inception_distance_mean"], began)
    for antialias in (False, True):
        began = time.perf_counter()
        theirs = FrechetInceptionDistance(
            feature_extractor_weights_path=str(file), antialias=antialias
        )
        for x, y in pairs:
            theirs.update(y, real=True)
            theirs.update(x, real=False)
        said(f"FID, torchmetrics, antialias={antialias}", theirs.compute().item(), began)
    began = time.perf_counter()
    kernel = KernelInceptionDistance(theirs.inception, subsets=1, subset_size=count)
    for x, y in pairs:
        kernel.update(y, real=True)
        kernel.update(x, real=False)
    said("KID, torchmetrics, antialias=True, one subset", kernel.compute()[0].item(), began)


@torch.inference_mode()
def main(folder: str, alexnet: str | None = None, inception: str | None = None) -> None:
    """Prints a table."""
    pairs = pictures(folder)
    print(f"{len(pairs)} pictures of {folder}\n\n| | value | seconds |\n|---|---|---|")
    if alexnet:
        measured_by_lpips(pairs, Path(alexnet))
    with tempfile.TemporaryDirectory() as root:
        file = Path(inception) if inception else Path(root) / "inception.pth"
        if not inception:
            made_up_inception(file)
        measured_by_inception(pairs, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
