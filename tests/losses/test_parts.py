"""What has a yaml in `conf/loss` is built by its name and composed into stages."""

from pathlib import Path

import pytest
import torch
from torch import nn

from restore.config import check, compose, plain, registry, settings
from restore.engine.objectives import ModelObjective, _parameter_groups
from restore.errors import UserError
from restore.losses.pixel import L1, L2, Charbonnier
from restore.losses.two_pictures import as_loss
from restore.models.pretrained import MissingWeights
from restore.types import Problem, Restoration

PLACE = "stages.full.objectives.restoration"
VGG = "pretrained.vgg19=random"


class Critic(nn.Module):
    """Logits that depend on the picture and on a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (self.weight * image).square().flatten(1).mean(1, keepdim=True)


class Backbone(nn.Module):
    """One that transfers textures: the picture is its own feature."""

    def texture_features(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [image.square()]


# Of the small pictures here.
MORE = {
    name: [f"loss.{name}.least=4", f"loss.{name}.border=2", *more]
    for name, more in {"triplet": [], "distillation": ["loss.distillation.weights=random"]}.items()
}


@pytest.mark.parametrize("name", registry.names("loss"))
def test_every_loss_is_a_finite_number_with_a_gradient(name):
    loss = as_loss(registry.build("loss", name, VGG, *MORE.get(name, [])), name, 1.0)
    torch.manual_seed(0)
    models = {"backbone": Backbone(), "discriminator": Critic()}
    image = torch.rand(2, 3, 32, 32, requires_grad=True)
    answer = Restoration(
        image,
        score=torch.rand(2, 1, 32, 32),
        textures=[torch.rand(2, 3, 32, 32)],
        block_masks={"body.0": torch.rand(2, 1, 8, 8, requires_grad=True)},
        query=torch.rand(2, 5, 8, 8, requires_grad=True),
        key=torch.rand(2, 5, 8, 8),
        to_predict=torch.rand(2, 3, 32, 32),
        predicted=image * 2,
    )
    same = torch.eye(3).expand(2, 3, 3)
    target = torch.rand(2, 3, 32, 32)
    inputs = {"low_up": image, "reference": torch.rand(2, 3, 32, 32)}
    problem = Problem(inputs, target, ["a", "b"], homography=same)
    value = loss(answer, problem, models)
    assert value.shape == ()
    assert value.isfinite()
    assert name == "gan_generator" or name == "gan_critic" or value >= 0
    learns = [
        image,
        answer.query,
        *models["discriminator"].parameters(),
        *answer.block_masks.values(),
    ]
    gradients = torch.autograd.grad(value, learns, allow_unused=True)
    felt = [g for g in gradients if g is not None]
    assert felt
    assert all(g.isfinite().all() for g in felt)
    assert any(g.abs().max() > 0 for g in felt)


def full(*overrides: str) -> settings.Objective:
    """The backbone's objective of the stage `full`."""
    config = plain(compose("train", ["schedule=[full]", VGG, *overrides]))
    return check(config, settings.Train).stages["full"].objectives["restoration"]


def test_a_term_is_swapped_by_name_and_keeps_weight_and_range():
    swapped = full(f"loss@{PLACE}.losses.reconstruction=charbonnier")
    loss = registry.instantiate(swapped.parts["reconstruction"], "loss")
    assert isinstance(loss, Charbonnier)
    assert loss.range == 2.0, "the objective's, as for the L1 that was there"
    assert swapped.weights == full().weights
    l2 = full(f"loss@{PLACE}.losses.perceptual=l2", f"{PLACE}.range=255")
    part = registry.instantiate(l2.parts["perceptual"], "loss")
    assert isinstance(part, L2)
    assert part.range == 255
    assert l2.weights["perceptual"] == 0.01


def test_a_term_is_added_weighed_and_left_out():
    more = full(f"+loss@{PLACE}.losses.smooth=total_variation", f"{PLACE}.losses.smooth.weight=3")
    assert more.weights == {**full().weights, "smooth": 3.0}
    assert list(more.parts)[-1] == "smooth"
    fewer = full(f"{PLACE}.losses.perceptual.weight=0", f"{PLACE}.losses.transferal.weight=0")
    assert list(fewer.parts) == ["reconstruction", "adversarial"]
    assert "weight" not in fewer.parts["reconstruction"]


def test_a_loss_keeps_to_the_cache_and_downloads_nothing_where_forbidden(tmp_path: Path):
    settings_ = ["pretrained.download=false", f"pretrained.cache={tmp_path}"]
    with pytest.raises(MissingWeights, match=r"pretrained\.download=false") as error:
        registry.build("loss", "perceptual_srgan", *settings_)
    assert f"{tmp_path}/vgg19-" in str(error.value)


@pytest.mark.parametrize("range_", [1.0, 2.0, 255.0])
@pytest.mark.parametrize(("target", "ours"), [("torch.nn.L1Loss", L1), ("torch.nn.MSELoss", L2)])
def test_a_loss_of_torch_is_one_by_its_yaml_alone(target, ours, range_, tmp_path: Path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "theirs.yaml").write_text(f"# torch's\n_target_: {target}\n")
    words = [f"loss@{PLACE}.losses.reconstruction=theirs", f"{PLACE}.range={range_}"]
    setting = full(f"hydra.searchpath=[file://{tmp_path}]", *words)
    setting.losses = {"reconstruction": setting.losses["reconstruction"]}
    setting.param_groups = {}
    loss = ModelObjective("here", setting, nn.Linear(1, 1), 10).losses["reconstruction"]
    torch.manual_seed(0)
    target_, image = torch.rand(2, 2, 3, 8, 9)
    for weight in (None, torch.rand(2, 1, 8, 9)):
        problem = Problem({}, target_, ["a", "b"], weight=weight)
        expected = ours(range_)(Restoration(image), problem, {})
        torch.testing.assert_close(loss(Restoration(image), problem, {}), expected)


def test_a_loss_of_another_library_sees_the_objectives_range():
    seen = []

    def their(x, y):
        seen.extend([x, y])
        return (x - y).abs()

    problem = Problem({}, torch.zeros(1, 3, 4, 4), ["a"])
    for range_, low, high in ((1.0, 0, 1), (2.0, -1, 1), (255.0, 0, 255)):
        seen.clear()
        value = as_loss(their, "here", range_)(Restoration(torch.ones(1, 3, 4, 4)), problem, {})
        assert value == high - low
        assert (seen[0] == high).all()
        assert (seen[1] == low).all()


def test_what_is_no_loss_is_refused_in_a_sentence():
    with pytest.raises(UserError, match=r"here: a loss is called with .*; Identity takes input"):
        as_loss(nn.Identity(), "here", 1.0)
    with pytest.raises(
        UserError, match=r"here: .* CosineEmbeddingLoss takes input1, input2, target"
    ):
        as_loss(nn.CosineEmbeddingLoss(), "here", 1.0)
    with pytest.raises(UserError, match="here: a dict is no loss"):
        as_loss({}, "here", 1.0)
    problem = Problem({}, torch.zeros(1, 3, 4, 4), ["a"])
    with pytest.raises(UserError, match="the loss BCELoss cannot compare two pictures: "):
        as_loss(nn.BCELoss(), "here", 255.0)(Restoration(problem.target + 1), problem, {})


def test_a_loss_that_names_no_weight_counts_once(tmp_path: Path):
    (tmp_path / "loss").mkdir()
    text = "# mine\n_target_: restore.losses.pixel.L1\n"
    (tmp_path / "loss" / "mine.yaml").write_text(text)
    search = f"hydra.searchpath=[file://{tmp_path}]"
    own = full(search, f"+loss@{PLACE}.losses.own=mine")
    assert own.weights["own"] == 1.0
    assert isinstance(registry.instantiate(own.parts["own"], "loss"), L1)


@pytest.mark.parametrize("name", [*registry.names("optimizer"), *("adan", "lamb", "adafactor")])
def test_every_optimizer_makes_steps_with_groups_of_its_own(name):
    place = "stages.reconstruction.objectives.restoration"
    mine = [f"optimizer@{place}.optimizer={name}"]
    if name not in registry.names("optimizer"):
        mine = [f"optimizer@{place}.optimizer=timm", f"{place}.optimizer.opt={name}"]
    config = plain(compose("train", [*mine, VGG]))
    setting = check(config, settings.Train).stages["reconstruction"].objectives["restoration"]
    torch.manual_seed(0)
    model = nn.ModuleDict({"body": nn.Linear(3, 3), "extractor": nn.Linear(3, 3)})
    objective = ModelObjective("here", setting, model, 10)
    rates = [group["lr"] for group in objective.optimizer.param_groups]
    assert rates[1:] == [1e-5], "the extractor's"
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    for step in range(2):
        objective.set_lr(step)
        objective.optimizer.zero_grad()
        x = torch.rand(4, 3)
        model["extractor"](model["body"](x)).sub(1).square().mean().backward()
        objective.optimizer.step()
    moved = {key: (p - before[key]).abs().mean() for key, p in model.named_parameters()}
    assert all(0 < distance < 1 for distance in moved.values()), moved


def test_a_group_of_parameters_ends_with_a_part_or_at_a_star():
    model = nn.ModuleDict({"body": nn.Linear(3, 3), "body2": nn.Linear(3, 3)})
    groups = _parameter_groups("here", model, {"body": {"lr": 0.1}, "bod*.w*": {"lr": 0.2}})
    body, other = model["body"], model["body2"]
    expected = [[other.bias], [body.weight, body.bias], [other.weight]]
    for group, parameters in zip(groups, expected, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in parameters]
    with pytest.raises(UserError, match="no such part"):
        _parameter_groups("here", model, {"bod": {"lr": 0.1}})


@pytest.mark.parametrize("name", registry.names("lr_schedule"))
def test_every_schedule_composes_into_a_stage(name):
    place = "stages.reconstruction.objectives.restoration.lr_schedule"
    config = plain(compose("train", [f"lr_schedule@{place}={name}", VGG]))
    stage = check(config, settings.Train).stages["reconstruction"]
    assert stage.objectives["restoration"].lr_schedule.name == name.partition("_")[0]
