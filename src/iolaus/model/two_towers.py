"""Two towers: users and items, each through a network of its own. Covington, Adams and Sargin, https://doi.org/10.1145/2959100.2959190."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class TwoTowers(nn.Module):
    """The score <f(x_u), g(x_i)> / t of user u and item i, with perceptrons f and g on learned vectors x.

    With `normalize` both sides are scaled to length 1, and scores lie between -1 / t and 1 / t. Where a batch has more candidates than
    there are items, each item goes through its tower once.

    Args:
        num_users: number of users.
        num_items: number of items.
        hidden_dim: size of the learned vectors, and of what the towers make of them.
        hidden_dims: width of each hidden layer of a tower; none makes it linear.
        activation: name of an activation of torch.nn.
        normalize: whether the towers' outputs are scaled to length 1.
        temperature: t.
        std: deviation of the vectors' first values.

    Shape:
        users: (B,) int64; items: (B, C) int64; output: (B, C).

    Raises:
        ValueError: for an activation that torch.nn does not have, a temperature or deviation that is not positive.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        hidden_dim: int = 32,
        hidden_dims: Sequence[int] = (64,),
        activation: str = "ReLU",
        normalize: bool = True,
        temperature: float = 0.2,
        std: float = 0.1,
    ):
        super().__init__()
        if not hasattr(nn.modules.activation, activation):
            raise ValueError(f"activation must be a class of torch.nn, such as ReLU or GELU; received {activation!r}")
        for name, value in (("temperature", temperature), ("std", std)):
            if value <= 0:
                raise ValueError(f"{name} must be above 0; received {value}")
        self.num_items = num_items
        self.normalize = normalize
        self.temperature = temperature
        self.user = self._tower(num_users, hidden_dim, hidden_dims, activation, std)
        self.item = self._tower(num_items, hidden_dim, hidden_dims, activation, std)

    @staticmethod
    def _tower(n: int, dim: int, hidden_dims: Sequence[int], activation: str, std: float) -> nn.Sequential:
        vectors = nn.Embedding(n, dim)
        nn.init.normal_(vectors.weight, std=std)
        layers: list[nn.Module] = [vectors]
        width = dim
        for hidden in hidden_dims:
            layers += [nn.Linear(width, hidden), getattr(nn, activation)()]
            width = hidden
        return nn.Sequential(*layers, nn.Linear(width, dim))

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores."""
        # an exported graph takes any number of candidates by one way
        every = not torch.compiler.is_exporting() and items.numel() > self.num_items
        user = self.user(users)
        item = self.item(torch.arange(self.num_items, device=items.device) if every else items)
        if self.normalize:
            user, item = F.normalize(user, dim=-1), F.normalize(item, dim=-1)
        if every:
            item = F.embedding(items, item)
        return (user[:, None] * item).sum(-1) / self.temperature
