"""Matrix factorisation. Koren, Bell and Volinsky, https://doi.org/10.1109/MC.2009.263."""

import torch
from torch import nn


class MatrixFactorization(nn.Module):
    """The score mu + b_u + b_i + <p_u, q_i> of user u and item i, with learned vectors and biases.

    Losses that compare items of one user do not move mu and b_u.

    Args:
        num_users: number of users.
        num_items: number of items.
        hidden_dim: size of the vectors, D.
        std: deviation of their first values: small ones let directions grow that many users share.

    Shape:
        users: (B,) int64; items: (B, C) int64; output: (B, C).

    Raises:
        ValueError: for a deviation that is not positive: vectors of zeros have no gradient.
    """

    def __init__(self, num_users: int, num_items: int, hidden_dim: int = 32, std: float = 0.01):
        super().__init__()
        if std <= 0:
            raise ValueError(f"std must be above 0; received {std}")
        self.user = nn.Embedding(num_users, hidden_dim)
        self.item = nn.Embedding(num_items, hidden_dim)
        self.user_bias = nn.Embedding(num_users, 1)
        self.item_bias = nn.Embedding(num_items, 1)
        self.bias = nn.Parameter(torch.zeros(()))
        for vectors in (self.user, self.item):
            nn.init.normal_(vectors.weight, std=std)
        for biases in (self.user_bias, self.item_bias):
            nn.init.zeros_(biases.weight)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores."""
        match = (self.user(users)[:, None] * self.item(items)).sum(-1)  # einsum's gradient takes twice the time
        return self.bias + self.user_bias(users) + self.item_bias(items).squeeze(-1) + match
