"""GPT-2: a published parameter count, and the outputs of torch's own layers with the same weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from iolaus.model.gpt2 import GPT2

PUBLISHED = {  # of the weights that OpenAI has published: width, blocks, heads
    "GPT-2": (124_439_808, 768, 12, 12),
    "GPT-2 XL": (1_557_611_200, 1_600, 48, 25),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_of_published_sizes_without_allocating_them(name):
    count, dim, layers, heads = PUBLISHED[name]
    with torch.device("meta"):
        model = GPT2(50_257, [1_024], dim, layers, heads)
    assert sum(p.numel() for p in model.parameters()) == count


def test_outputs_are_those_of_torch_s_own_layers():
    torch.manual_seed(0)
    model = GPT2(30, [9], 16, 2, 4, 0.1).eval()
    tokens = torch.randint(30, (3, 7))
    x = model.embedding(tokens) + model.positions.weight[:7]
    ahead = torch.ones(7, 7, dtype=torch.bool).triu(1)
    for block in model.blocks:
        layer = nn.TransformerEncoderLayer(
            16, 4, 64, 0.1, lambda t: F.gelu(t, approximate="tanh"), batch_first=True, norm_first=True
        ).eval()
        pairs = {
            "self_attn.in_proj_": block.attention.query_key_value,
            "self_attn.out_proj.": block.attention.output,
            "linear1.": block.up,
            "linear2.": block.down,
            "norm1.": block.attention_norm,
            "norm2.": block.feedforward_norm,
        }
        layer.load_state_dict(
            {f"{name}{key}": w for name, part in pairs.items() for key, w in part.state_dict().items()}
        )
        x = layer(x, src_mask=ahead, is_causal=True)
    torch.testing.assert_close(model(tokens), model.norm(x) @ model.embedding.weight.T)


def test_no_token_sees_what_follows_and_positions_count():
    torch.manual_seed(0)
    model = GPT2(30, [12], 16, 2, 2).eval()
    tokens = torch.randint(30, (3, 12))
    changed = torch.cat([tokens[:, :7], torch.randint(30, (3, 5))], 1)
    torch.testing.assert_close(model(tokens)[:, :7], model(changed)[:, :7])
    assert not torch.allclose(model(tokens)[:, 7:], model(changed)[:, 7:])
    same = model(torch.full((1, 4), 3))[0]
    assert not torch.allclose(same[0], same[1])


def test_heads_must_divide():
    with pytest.raises(ValueError, match=r"num_heads must divide hidden_dim=64; received 5"):
        GPT2(30, [8], 64, num_heads=5)
