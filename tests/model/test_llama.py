"""The decoder: published parameter counts, causality, positions that count by distance, shared keys and values."""

import pytest
import torch
from torch.nn import functional as F

from iolaus.model.llama import Attention, Llama, rotate, rotations

PUBLISHED = {
    "Llama 2, 7B": (6_738_415_616, 32_000, 4_096, 32, 32, 32, 11_008, False),
    "Llama 2, 13B": (13_015_864_320, 32_000, 5_120, 40, 40, 40, 13_824, False),
    "Llama 2, 70B": (68_976_648_192, 32_000, 8_192, 80, 64, 8, 28_672, False),
    "Llama 3, 8B": (8_030_261_248, 128_256, 4_096, 32, 32, 8, 14_336, False),
    "Llama 3.2, 1B": (1_235_814_400, 128_256, 2_048, 16, 32, 8, 8_192, True),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_of_published_sizes_without_allocating_them(name):
    count, vocabulary, dim, layers, heads, kv_heads, inner, tied = PUBLISHED[name]
    with torch.device("meta"):
        model = Llama(vocabulary, dim, layers, heads, kv_heads, inner, tied=tied)
    assert sum(p.numel() for p in model.parameters()) == count


def test_no_token_sees_what_follows():
    torch.manual_seed(0)
    model = Llama(50, 32, 2, 4, 2).eval()
    tokens = torch.randint(50, (3, 12))
    changed = tokens.clone()
    changed[:, 7:] = torch.randint(50, (3, 5))
    torch.testing.assert_close(model(tokens)[:, :7], model(changed)[:, :7])
    assert not torch.allclose(model(tokens)[:, 7:], model(changed)[:, 7:])


def test_products_of_rotated_vectors_depend_on_their_distance_alone():
    torch.manual_seed(0)
    query, key = torch.randn(16), torch.randn(16)
    turned = rotations(20, 16, 10_000.0, query)
    q, k = (rotate(x.expand(1, 1, 20, 16), turned)[0, 0] for x in (query, key))
    products = q @ k.T
    for distance in range(-10, 10):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(q.norm(dim=-1), query.norm().expand(20))


def test_grouped_queries_share_keys_and_values():
    """As attention of all heads whose keys and values are repeated."""
    torch.manual_seed(0)
    attention = Attention(32, 4, 2)
    x, turned = torch.randn(2, 6, 32), rotations(6, 8, 10_000.0, torch.zeros(()))
    query, key, value = (
        (x @ part.weight.T).reshape(2, 6, -1, 8).transpose(1, 2)
        for part in (attention.query, attention.key, attention.value)
    )
    key, value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
    mixed = F.scaled_dot_product_attention(rotate(query, turned), rotate(key, turned), value, is_causal=True)
    expected = mixed.transpose(1, 2).reshape(2, 6, 32) @ attention.output.weight.T
    torch.testing.assert_close(attention(x, turned), expected)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"num_heads": 5}, "num_heads must divide"), ({"num_heads": 8, "num_kv_heads": 3}, "num_kv_heads must divide")],
)
def test_heads_must_divide(arguments, says):
    with pytest.raises(ValueError, match=says):
        Llama(50, 64, **arguments)
