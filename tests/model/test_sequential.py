"""Networks from lists of layers: families of layers, compositions, and what is told about wrong ones."""

import pytest
import torch
from torch import nn

from iolaus.model.sequential import Sequential


def built(layers, shape=(3, 16, 16), outputs=5, **arguments):
    torch.manual_seed(0)
    return Sequential(layers, shape, outputs, **arguments)


def test_it_is_the_network_that_one_would_write():
    model = built(["Flatten", {"Linear": {"out_features": 8}}, "Tanh"], (4,), 3)
    torch.manual_seed(0)
    by_hand = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    x = torch.randn(6, 4)
    assert torch.equal(model(x), by_hand(x))


FAMILIES = {
    "convolution": [{"Conv2d": {"out_channels": 4, "kernel_size": 3}}],
    "transposed": [{"ConvTranspose2d": {"out_channels": 4, "kernel_size": 2, "stride": 2}}],
    "fold": [
        {"Unfold": {"kernel_size": 2, "stride": 2}},
        {"Fold": {"output_size": [16, 16], "kernel_size": 2, "stride": 2}},
    ],
    "pooling": [
        {"MaxPool2d": {"kernel_size": 2}},
        {"AvgPool2d": {"kernel_size": 2}},
        {"AdaptiveAvgPool2d": {"output_size": 1}},
    ],
    "padding": [{"ReflectionPad2d": {"padding": 1}}, {"ZeroPad2d": {"padding": 2}}],
    "normalisation": ["BatchNorm2d", {"GroupNorm": {"num_groups": 3}}, "InstanceNorm2d", "LayerNorm", "RMSNorm"],
    "dropout": [{"Dropout2d": {"p": 0.3}}, "AlphaDropout"],
    "shuffle": [
        {"PixelUnshuffle": {"downscale_factor": 2}},
        {"PixelShuffle": {"upscale_factor": 2}},
        {"ChannelShuffle": {"groups": 3}},
    ],
    "activations": [
        "ReLU",
        "GELU",
        "SiLU",
        {"LeakyReLU": {"negative_slope": 0.1}},
        "Softplus",
        {"Softmax": {"dim": 1}},
        "PReLU",
    ],
    "linear": ["Flatten", {"Linear": {"out_features": 7}}, "Identity", {"Bilinear": {"out_features": 4}}],
    "lazy": [
        {"LazyConv2d": {"out_channels": 4, "kernel_size": 3}},
        "LazyBatchNorm2d",
        "Flatten",
        {"LazyLinear": {"out_features": 6}},
    ],
    "recurrent": [
        {"Flatten": {"start_dim": 2}},
        {"LSTM": {"hidden_size": 6}},
        {"GRU": {"hidden_size": 4, "bidirectional": True}},
    ],
    "transformer": [
        {"Flatten": {"start_dim": 2}},
        {"TransformerEncoderLayer": {"nhead": 4}},
        {"MultiheadAttention": {"num_heads": 2}},
    ],
    "one dimension": [
        {"Flatten": {"start_dim": 2}},
        {"Conv1d": {"out_channels": 4, "kernel_size": 3}},
        {"MaxPool1d": {"kernel_size": 4}},
    ],
    "three dimensions": [
        {"Unflatten": {"dim": 1, "unflattened_size": [1, 3]}},
        {"Conv3d": {"out_channels": 2, "kernel_size": 2}},
        {"AvgPool3d": {"kernel_size": 2}},
    ],
    "unpooling": [{"unpooled": {"kernel_size": 2, "layers": ["BatchNorm2d", "Tanh"]}}],
    "unpooling, one dimension": [{"Flatten": {"start_dim": 2}}, {"unpooled": {"kernel_size": 4, "layers": ["PReLU"]}}],
    "embedding": ["Flatten", {"Embedding": {"num_embeddings": 9, "embedding_dim": 2}}],
    "embedding bag": ["Flatten", {"EmbeddingBag": {"num_embeddings": 9, "embedding_dim": 2}}],
    "transposed, one and three dimensions": [
        {"Unflatten": {"dim": 1, "unflattened_size": [1, 3]}},
        {"ConvTranspose3d": {"out_channels": 2, "kernel_size": 2}},
        {"Flatten": {"start_dim": 2}},
        {"ConvTranspose1d": {"out_channels": 1, "kernel_size": 2}},
    ],
    "norms and pools of one dimension": [
        {"Flatten": {"start_dim": 2}},
        "BatchNorm1d",
        {"LPPool1d": {"norm_type": 2, "kernel_size": 2}},
        {"ConstantPad1d": {"padding": 1, "value": 0.5}},
        {"AdaptiveMaxPool1d": {"output_size": 8}},
    ],
    "norms and pools of three dimensions": [
        {"Unflatten": {"dim": 1, "unflattened_size": [1, 3]}},
        "InstanceNorm3d",
        {"MaxPool3d": {"kernel_size": [1, 2, 2]}},
        {"LazyConvTranspose3d": {"out_channels": 2, "kernel_size": 1}},
        "Dropout3d",
    ],
    "decoder": [
        {"Flatten": {"start_dim": 2}},
        {"TransformerDecoderLayer": {"nhead": 4, "dim_feedforward": 16}},
    ],
    "upsampling": [{"Upsample": {"scale_factor": 2}}],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_layers(family):
    """Shapes are inferred, nothing is lazy any more, and every weight gets a gradient."""
    model = built(FAMILIES[family])
    output = model(torch.randint(9, (4, 3, 16, 16)).float() if "embedding" in family else torch.randn(4, 3, 16, 16))
    assert output.shape == (4, 5)
    output.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert not isinstance(parameter, nn.UninitializedParameter), name
        assert parameter.grad is not None, name


def conv(channels, size, **more):
    return {"Conv2d": {"out_channels": channels, "kernel_size": size, **more}}


def test_parallel_branches_by_concatenation_sum_and_product():
    x = torch.randn(2, 3, 16, 16)
    for join, expected in {
        "concat": lambda a, b: torch.cat([a, b], 1),
        "sum": torch.add,
        "product": torch.mul,
    }.items():
        model = built([{"parallel": {"branches": [[conv(4, 3)], [conv(4, 3)]], "join": join}}])
        first, second = model.layers[0].branches.values()
        assert torch.equal(model.layers[0](x), expected(first(x), second(x)))


def test_branches_have_names_where_they_are_given():
    model = built([{"parallel": {"branches": {"wide": [conv(4, 5, padding=2)], "narrow": [conv(2, 1)]}}}])
    assert {name.split(".")[3] for name, _ in model.named_parameters() if "branches" in name} == {"wide", "narrow"}


def test_unpooling_puts_the_maxima_back_where_they_were():
    model = built([{"unpooled": {"kernel_size": 2, "layers": ["Identity"]}}], (1, 4, 4), head=False)
    x = torch.arange(1.0, 17).reshape(1, 1, 4, 4)
    expected = torch.zeros(1, 1, 4, 4)
    for row, column in ((1, 1), (1, 3), (3, 1), (3, 3)):
        expected[0, 0, row, column] = x[0, 0, row, column]
    assert torch.equal(model(x), expected)


def test_the_parallel_cnn_joins_to_twelve_channels_of_fourteen_by_fourteen():
    import yaml
    from conftest import CONF

    layers = yaml.safe_load((CONF / "model/parallel_cnn.yaml").read_text())["layers"]
    model = built(layers, (3, 32, 32), 10)
    assert model.layers[0](torch.randn(1, 3, 32, 32)).shape == (1, 12, 14, 14)
    assert sum(p.numel() for p in model.parameters()) == 6 * 75 + 6 + 6 * 27 + 6 + 12 * 14 * 14 * 10 + 10


def test_residual_and_repeat():
    model = built(
        [{"repeat": {"times": 3, "layers": [{"residual": ["BatchNorm2d", conv(3, 3, padding=1)]}]}}], head=False
    )
    x = torch.randn(2, 3, 16, 16)
    blocks = [block[0] for block in model.layers[0]]
    assert len({id(block.layers[1].weight) for block in blocks}) == 3
    expected = x
    for block in blocks:
        expected = expected + block.layers(expected)
    torch.testing.assert_close(model(x), expected)


def test_lists_are_nested():
    model = built([[conv(4, 3), ["ReLU", conv(2, 3)]], "Flatten"])
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 5)


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (["Relu"], "layers.0: there is no layer 'Relu'; did you mean 'ReLU'"),
        (["Module"], "there is no layer 'Module'"),
        (["functional"], "there is no layer 'functional'"),
        ([conv(4, 3), {"Conv2d": {"kernel_size": 3}}], "layers.1: Conv2d received [B, 4, 14, 14]"),
        (
            [{"Conv2d": {"out_channel": 3}}],
            "layers.0.Conv2d: it has no argument 'out_channel'; did you mean 'out_channels'",
        ),
        ([conv(4, 3), conv(4, 20)], "layers.1: Conv2d received [B, 4, 14, 14]: Calculated padded input size"),
        ([{"Linear": {"in_features": 7, "out_features": 2}}], "layers.0: Linear received [B, 3, 16, 16]"),
        (["Flatten", conv(4, 3)], "layers.1: Conv2d received [B, 768]"),
        ([{"MultiheadAttention": {"num_heads": 3}}], "layers.0: MultiheadAttention received [B, 3, 16, 16]"),
        (
            [{"parallel": {"branches": [[conv(4, 3)], [conv(4, 5)]]}}],
            "layers.0: parallel received [B, 3, 16, 16]: Sizes of tensors",
        ),
        ([{"parallel": {"branches": [["ReLU"], ["Rel"]]}}], "layers.0.parallel.branches.1.0: there is no layer 'Rel'"),
        (
            [{"parallel": {"branches": [["ReLU"]], "join": "add"}}],
            "join: received 'add'; there are: concat, sum, product",
        ),
        ([{"parallel": {"branche": []}}], "did you mean 'branches'"),
        ([{"residual": [conv(4, 3)]}], "layers.0: residual received [B, 3, 16, 16]"),
        ([{"repeat": {"times": 0, "layers": ["ReLU"]}}], "layers.0.repeat.times: must be a whole number"),
        ([{"repeat": {"times": 2, "layers": [conv(4, 12)]}}], "layers.0.repeat.1.0: Conv2d received [B, 4, 5, 5]"),
        ([{"ReLU": {}, "Tanh": {}}], "layers.0: write NAME"),
        ([{"unpooled": {"layers": ["ReLU"]}}], "layers.0.unpooled.kernel_size: must be a whole number"),
        (["Flatten", {"unpooled": {"kernel_size": 2, "layers": ["ReLU"]}}], "layers.1: unpooled received [B, 768]"),
        ([{"Linear": 5}], "layers.0.Linear: arguments are a mapping"),
        ([], "layers: must be a list of layers"),
    ],
)
def test_wrong_layers_are_told_by_position_name_and_shape(layers, says):
    with pytest.raises(ValueError) as error:  # noqa: PT011  the text is looked at below
        built(layers)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_wrong_layer_on_the_command_line(command):
    outcome = command("model=sequential", "model.layers=[{Conv2d: {out_channels: 4, kernel_size: 3}}, Relu]")
    assert outcome.code == 1
    assert "layers.1: there is no layer 'Relu'; did you mean 'ReLU'" in outcome.text
    assert len(outcome.text.splitlines()) <= 3


@pytest.mark.slow
def test_training_a_list_from_the_command_line(command):
    layers = "[{Conv2d: {out_channels: 8, kernel_size: 3}}, BatchNorm2d, ReLU, {Dropout: {p: 0.1}}]"
    outcome = command("model=sequential", f"model.layers={layers}", "trainer.max_epochs=15")
    assert outcome.code == 0, outcome.text
    assert outcome.results["metrics"]["test"]["accuracy/test"] > 0.95
