"""The small network of the introductions, with its worked figures."""

import torch

from iolaus.callbacks.summary import summarize
from iolaus.model.cnn import CNN


def test_parameters_and_summary():
    model = CNN([1, 28, 28], 10)
    counts = [
        sum(p.numel() for p in layer.parameters()) for layer in (model.conv1, model.conv2, model.hidden, model.head)
    ]
    assert counts == [320, 18_496, 1_179_776, 1_290]
    text = summarize(model, torch.zeros(1, 1, 28, 28))
    assert "parameters: 1,199,882 (1,199,882 trainable)" in text
    assert "parameters size: 4.58 MB" in text
    assert "forward/backward pass size: 0.52 MB" in text
    for name, shape in (
        ("conv1 (Conv2d)", "[B, 32, 26, 26]"),
        ("conv2 (Conv2d)", "[B, 64, 24, 24]"),
        ("head (Linear)", "[B, 10]"),
    ):
        assert any(name in line and shape in line for line in text.splitlines())


def test_the_summary_leaves_the_model_as_it_was():
    model = CNN([1, 28, 28], 10).train()
    model.conv_dropout.eval()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    summarize(model, torch.zeros(1, 1, 28, 28))
    assert torch.rand(1) == expected
    assert model.training
    assert not model.conv_dropout.training
    assert not any(m._forward_hooks for m in model.modules())
