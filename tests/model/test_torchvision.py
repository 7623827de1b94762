"""Every classification network of torchvision, fitted to other channels and classes."""

import pytest
import torch
from torchvision import models

from iolaus.model.torchvision_model import TorchvisionModel, _fit_channels

NAMES = models.list_models(module=models)
SOME = {"resnet50", "vgg11", "vit_b_16", "squeezenet1_0", "googlenet", "mobilenet_v3_small", "swin_t", "densenet121"}
ON_META = [n for n in NAMES if not n.startswith("regnet")]  # whose widths are computed with tensors


@pytest.mark.parametrize("name", [n if n in SOME else pytest.param(n, marks=pytest.mark.slow) for n in ON_META])
def test_any_network_takes_one_channel_and_gives_seven_outputs(name):
    side = 299 if name == "inception_v3" else 224
    with torch.device("meta"):
        model = TorchvisionModel(name, [1, side, side], 7).eval()
        assert model(torch.empty(2, 1, side, side)).shape == (2, 7)


def test_a_regnet():
    model = TorchvisionModel("regnet_y_400mf", [2, 32, 32], 7).eval()
    assert model(torch.randn(2, 2, 32, 32)).shape == (2, 7)


def test_resnet50_on_one_channel():
    """Its published parameters, less two thirds of the first convolution and all but ten classes."""
    model = TorchvisionModel("resnet50", [1, 64, 64], 10)
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 10)
    expected = 25_557_032 - 2 * 64 * 49 - 990 * (2048 + 1)
    assert sum(p.numel() for p in model.parameters()) == expected


def test_kept_weights_give_the_same_for_grey_images():
    torch.manual_seed(0)
    network = models.resnet18().eval()
    grey = torch.randn(2, 1, 64, 64)
    before = network(grey.expand(-1, 3, -1, -1))
    _fit_channels(network, 1, keep=True)
    torch.testing.assert_close(network(grey), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["name=resnet19"], "no classification network 'resnet19'; did you mean 'resnet18'"),
        (["pretrained=IMAGENET"], "has no weights 'IMAGENET'; there are: DEFAULT, IMAGENET1K_V1"),
        (["name=squeezenet1_1", "small_images=true"], "for ResNets only; received name=squeezenet1_1"),
    ],
)
def test_wrong_names(command, arguments, says):
    outcome = command("model=torchvision", *(f"model.{a}" for a in arguments))
    assert outcome.code == 1
    assert says in outcome.text
