"""Weights of other people's networks: downloaded, from a file, or (said aloud) random."""

import fcntl
import hashlib
import logging
import socket
import sys
import tempfile
import threading
import urllib.error
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import huggingface_hub
import torch
from torch import nn
from torchvision import models

from restore.errors import UserError
from restore.models import checkpoint
from restore.utils.foreign import at_home

log = logging.getLogger("restore")


@dataclass(frozen=True)
class Published:
    """A public file of weights; its name ends with the first digits of its SHA-256."""

    name: str
    url: str

    @property
    def file(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]

    @property
    def digits(self) -> str:
        """The first digits of the file's SHA-256."""
        return Path(self.file).stem.rpartition("-")[2]


# By their settings under `pretrained`.
PUBLISHED = {
    "vgg19": Published("VGG19", models.VGG19_Weights.IMAGENET1K_V1.url),
    "alexnet": Published("AlexNet", models.AlexNet_Weights.IMAGENET1K_V1.url),
    "inception": Published(
        "Inception",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
    ),
}

PATIENCE = 10.0  # seconds without an answer
# Why the first file that this process wanted could not be had; there is no second try.
_failure: str | None = None


def failure() -> str | None:
    """Why this process tries to fetch nothing more."""
    return _failure


def note_failure(reason: str) -> str:
    """From now on this process fetches nothing, for this reason, which is returned."""
    global _failure
    _failure = reason
    return reason


class MissingWeights(UserError):
    """A public file of weights that is not on this machine and cannot be fetched now."""


def file_of(
    key: str, setting: str | None = "imagenet", cache: str | None = None, download: bool = True
) -> Path:
    """The file of a public network's weights, fetched where it is not at hand.

    A process that could not fetch one file does not try again, for this or another. Of several
    processes that want a file one fetches it, and the others wait for it.

    Args:
        key: of `PUBLISHED`; the setting `pretrained.KEY` is where a user gives the file.
        setting: a file's path; `imagenet` (or None): the published file, of the cache or fetched.
        cache: the folder of fetched files; None: torch's (`$TORCH_HOME/hub/checkpoints`).
        download: whether it may be fetched.

    Raises:
        UserError: the setting names a file that is not there.
        MissingWeights: it is not in the cache, and fetching is forbidden or failed.
    """
    if setting not in ("imagenet", None):
        path = Path(at_home(setting))
        if not path.is_file():
            raise UserError(
                f"pretrained.{key}={setting}: no such file; give a file, or imagenet for the "
                "published one"
            )
        return path
    published = PUBLISHED[key]
    folder = Path(at_home(cache)) if cache else Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / published.file
    if not path.is_file():
        reason = _fetch(published, path) if download else "pretrained.download=false"
        if reason is not None:
            raise MissingWeights(
                f"{published.name}'s published weights cannot be downloaded ({reason}); put the "
                f"file {path.name} at {path}, or give pretrained.{key}=FILE"
            )
    return path


def _fetch(published: Published, path: Path) -> str | None:
    """Fetches a file whole or not at all; returns why it could not."""
    if _failure is None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _in_turn(path) as failure_before:
                if failure_before:
                    raise ConnectionError(failure_before)
                if not path.is_file():
                    _download(published, path)
        # No network, no room, no right to write; another hash than the name says.
        except (urllib.error.URLError, HTTPException, OSError, RuntimeError) as error:
            return note_failure(str(error))
    return _failure


@contextmanager
def _in_turn(path: Path) -> Iterator[str]:
    """Lets processes in one after another, and tells each why the one before it failed.

    The file that says so goes with the first: who comes after those that wait begins anew.
    """
    with open(path.with_name(f".{path.name}.lock"), "a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        failure_before = file.read()
        try:
            yield failure_before
        except Exception as error:
            if not failure_before:
                file.write(str(error))
            raise
        finally:
            Path(file.name).unlink(missing_ok=True)


def _download(published: Published, path: Path) -> None:
    log.info("fetching %s's weights from %s to %s", published.name, published.url, path)
    with _patience():
        torch.hub.download_url_to_file(
            published.url, str(path), hash_prefix=published.digits, progress=True
        )


@contextmanager
def _patience() -> Iterator[None]:
    """Without it a network that swallows packets would hold us for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def library_downloads(pretrained: Mapping[str, Any] | None, what: str) -> Iterator[None]:
    """While it lasts, other libraries follow our settings when they fetch weights by themselves.

    This holds in the thread that calls it. Where fetching is forbidden, or has failed before, every
    connection is refused before it is opened; files that are in a library's cache already are used
    as ever. `pretrained.cache` is the folder of torch's files (`torch.hub`, torchvision) and of the
    Hugging Face hub's.

    Args:
        pretrained: the settings of that name; None: nothing is forbidden.
        what: who needs them, for the message.

    Raises:
        MissingWeights: a library wanted to fetch something and could not.
    """
    settings = pretrained or {}
    reason = failure() if settings.get("download", True) else "pretrained.download=false"
    attempts = _Attempts(reason)
    _watch_connections()
    before = getattr(_thread, "attempts", None)
    _thread.attempts = attempts
    try:
        with _patience(), _cache_of_libraries(settings.get("cache")):
            yield
    except MissingWeights:
        raise
    except Exception as error:
        if not attempts.hosts or not (reason or _by_the_system(error)):
            raise
        reason = reason or note_failure(" ".join(str(error).split()))
        raise MissingWeights(
            f"{what} needs a file from {attempts.hosts[0]}, which cannot be downloaded ({reason})"
        ) from error
    finally:
        _thread.attempts = before


class _Attempts:
    """Connections that were wanted: to which hosts, and why they are refused (None: not)."""

    def __init__(self, reason: str | None):
        self.reason = reason
        self.hosts: list[str] = []

    def note(self, host: str) -> None:
        self.hosts.append(host)
        if self.reason is not None:
            raise ConnectionRefusedError(self.reason)


_thread = threading.local()
_watching = False


def _watch_connections() -> None:
    """Has Python report each connection before it is opened (there is no way to end that)."""
    global _watching
    if not _watching:
        _watching = True
        sys.addaudithook(_before_a_connection)


def _before_a_connection(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("socket.getaddrinfo", "socket.connect"):
        return
    attempts: _Attempts | None = getattr(_thread, "attempts", None)
    if attempts is None:
        return
    # A name that is looked up, or an address; what is no tuple is a socket of this machine's.
    host = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
    if event == "socket.connect":
        if not isinstance(host, tuple):
            return
        host = host[0]
    attempts.note(host.decode() if isinstance(host, bytes) else str(host))


def _by_the_system(error: BaseException | None) -> bool:
    """Whether an error goes back to a file or connection that could not be had."""
    while error is not None:
        if isinstance(error, OSError | HTTPException):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _cache_of_libraries(folder: str | None) -> Iterator[None]:
    """Has torch and the Hugging Face hub keep their files in a folder; None: each in its own."""
    if not folder:
        yield
        return
    cache = Path(at_home(folder)).absolute()
    before, new = torch.hub.get_dir(), not cache.exists()
    with tempfile.TemporaryDirectory() as hub:
        with suppress(OSError):  # where none can be made, nothing is kept
            cache.mkdir(parents=True, exist_ok=True)
            # torch's files lie in a folder of this name below the one that can be chosen.
            (Path(hub) / "checkpoints").symlink_to(cache, target_is_directory=True)
        torch.hub.set_dir(hub)
        hub_before = huggingface_hub.constants.HF_HUB_CACHE
        huggingface_hub.constants.HF_HUB_CACHE = str(cache)
        try:
            yield
        finally:
            torch.hub.set_dir(before)
            huggingface_hub.constants.HF_HUB_CACHE = hub_before
            if new:
                with suppress(OSError):  # it goes where nothing came into it
                    cache.rmdir()


@dataclass(frozen=True)
class Provenance:
    """Where a network's weights come from.

    `kind` is `imagenet`, `file`, `bundled` (comes with the package) or `random`; `official` whether
    the file is the published one.
    """

    name: str
    kind: str
    path: str = ""
    fingerprint: str = ""
    official: bool = False

    def sentence(self) -> str:
        """For the output, each time the network is used."""
        if self.kind == "random":
            return f"{self.name}: RANDOM weights (seed 0), not trained on anything"
        which = "the published file" if self.official else "not the published file"
        if self.kind == "bundled":
            which = "ships with restore"
        return f"{self.name}: weights of {self.path} (sha256 {self.fingerprint}…, {which})"


@runtime_checkable
class Pretrained(Protocol):
    """A network, a part of one or a loss that brings weights along; see `pretrained_parts`."""

    provenance: Provenance


def pretrained_parts(whole: object) -> Iterator[tuple[str, Provenance]]:
    """The parts of a network or a loss that say where their weights come from, by their names.

    The name of the whole itself is empty.
    """
    if isinstance(whole, nn.Module):
        for name, part in whole.named_modules():
            if isinstance(part, Pretrained):
                yield name, part.provenance
    elif isinstance(whole, Pretrained):
        yield "", whole.provenance


def vgg19_features(
    weights: str, layers: int, cache: str | None = None, download: bool = True
) -> tuple[nn.Sequential, Provenance]:
    """The first `layers` layers of VGG19's features.

    Args:
        weights: `imagenet` (torchvision's file, from its cache or downloaded), `random` (always
            the same ones), or the path of a VGG19 state dict of torchvision or timm, which may
            end after the layers that are wanted.
        layers: how many, as torchvision counts them (12: up to relu3_1).
        cache: see `file_of`.
        download: see `file_of`.

    Raises:
        UserError: nothing to download from, or a file that holds no VGG19.
    """
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            features = vgg_layers(layers)
            for layer in features:
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        return features, Provenance("VGG19", "random")
    try:
        path = file_of("vgg19", weights, cache, download)
    except UserError as error:
        raise type(error)(f"{error}, or pretrained.vgg19=random") from error
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    official = digest.startswith(PUBLISHED["vgg19"].digits)
    kind = "imagenet" if weights == "imagenet" else "file"
    state = {
        name.removeprefix("features."): tensor
        for name, tensor in checkpoint.read(path).items()
        if name.startswith("features.")
    }
    with torch.device("meta"):
        names = [*vgg_layers(_LAYERS).state_dict()]
    # From the first layer on without a gap, and none that VGG19 has not: VGG16, say, has the same
    # names and shapes to conv3_3, and others after it.
    if not state or state.keys() != set(names[: len(state)]):
        raise UserError(
            f"pretrained.vgg19={path} holds no VGG19 as torchvision or timm name its "
            "parts (features.0.weight … features.34.bias)"
        )
    features = vgg_layers(layers)
    wanted = features.state_dict()
    if surplus := [name for name in wanted if name not in state]:
        raise UserError(
            f"pretrained.vgg19={path} ends after VGG19's layer "
            f"{names[len(state) - 1]}; features.{surplus[-1]} is needed too: give "
            "the whole file"
        )
    checkpoint.load_into(
        features, {name: state[name] for name in wanted}, f"pretrained.vgg19={path}"
    )
    return features, Provenance("VGG19", kind, str(path), digest[:12], official)


# Configuration E of Simonyan and Zisserman 2015, table 1: filters of a convolution and its ReLU
# (which counts as a layer of its own), 0 for a pooling.
_WIDTHS = 2 * [64] + [0] + 2 * [128] + [0] + 4 * [256] + [0] + 2 * (4 * [512] + [0])
_LAYERS = sum(2 if width else 1 for width in _WIDTHS)


def vgg_layers(layers: int) -> nn.Sequential:
    """VGG19's first layers (VGG16's up to conv3_3), without making those behind them."""
    stack: list[nn.Module] = []
    channels = 3
    for width in _WIDTHS:
        if len(stack) >= layers:
            break
        if width == 0:
            stack.append(nn.MaxPool2d(2, 2))
        else:
            stack += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
    return nn.Sequential(*stack[:layers])
