"""The spectrum of a symmetric matrix from its products with vectors. Golub and Welsch, https://doi.org/10.1090/S0025-5718-69-99647-1."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDINGS = 10  # units of rounding, relative to the largest eigenvalue, that no bound is below


@dataclass(frozen=True)
class Spectrum:
    """What Lanczos tells of a matrix H of d rows: a quadrature of its spectral density, and bounds.

    Args:
        nodes: (n,) Ritz values, those of all probes.
        weights: (n,) of the density at each; their sum is 1.
        bounds: (n,) an eigenvalue of H lies as near to each node as that.
        dim: d.
        traces: (p,) independent estimates of the trace, each unbiased.
    """

    nodes: Tensor
    weights: Tensor
    bounds: Tensor
    dim: int
    traces: Tensor

    @property
    def largest(self) -> tuple[float, float]:
        """The largest Ritz value and its bound: the largest eigenvalue is not below it by more than the bound."""
        return self._at(int(self.nodes.argmax()))

    @property
    def smallest(self) -> tuple[float, float]:
        """The smallest Ritz value and its bound: the smallest eigenvalue is not above it by more than the bound."""
        return self._at(int(self.nodes.argmin()))

    def _at(self, index: int) -> tuple[float, float]:
        return self.nodes[index].item(), self.bounds[index].item()

    @property
    def trace(self) -> tuple[float, float]:
        """The mean of the estimates and its standard error; NaN for a single one. Hutchinson, https://doi.org/10.1080/03610919008812866."""
        error = self.traces.std().item() / math.sqrt(len(self.traces)) if len(self.traces) > 1 else math.nan
        return self.traces.mean().item(), error

    @property
    def negative_share(self) -> float:
        """Of the sum of all eigenvalues' sizes, the share of the negative ones; 0 for a matrix of zeros."""
        sizes = self.nodes.abs() * self.weights
        return (sizes[self.nodes < 0].sum() / sizes.sum().clamp_min(torch.finfo(sizes.dtype).tiny)).item()

    def moment(self, power: int) -> float:
        """v^T H^k v, the mean over the probes v of length 1: exact up to k = 2 m - 1 for m steps, and an estimate of tr(H^k) / d."""
        return (self.nodes**power * self.weights).sum().item()

    def density(self, grid: Tensor, width: float) -> Tensor:
        """The spectral density with each node as a Gaussian. Ghorbani and others, https://arxiv.org/abs/1901.10159.

        Args:
            grid: (g,) where it is wanted.
            width: standard deviation of the Gaussians.

        Shape:
            output: (g,); its integral is 1.
        """
        bells = torch.exp(-0.5 * ((grid[:, None] - self.nodes) / width) ** 2) / (width * math.sqrt(2 * math.pi))
        return bells @ self.weights


def lanczos(
    product: Callable[[Tensor], Tensor],
    dim: int,
    steps: int,
    num_probes: int = 1,
    trace_samples: int = 10,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Spectrum:
    """The spectrum by Lanczos from random signs, each vector orthogonalised against all before it, twice.

    Without that, rounding lets eigenvalues that have converged appear again and again. Each run gives the extreme eigenvalues first, a
    Gauss quadrature of the density as seen by its probe, and, for nothing, one estimate d v^T H v of the trace; as one estimate has
    no error bar, more of them are taken from further signs. Costs num_probes * steps + trace_samples products, and the memory of
    `steps` vectors.

    Args:
        product: v -> H v for a symmetric H.
        dim: rows of H.
        steps: of each run; a run ends earlier where its vectors span an invariant subspace.
        num_probes: runs.
        trace_samples: further estimates of the trace, a product each.
        seed: of the signs, which are the same on every device.
        dtype: of the vectors; the small tridiagonal problems are solved in float64.
        device: of the vectors.

    Raises:
        ValueError: for a number of steps that H does not have, or products that are not finite.

    Reference: Parlett, The Symmetric Eigenvalue Problem, chapter 13, https://doi.org/10.1137/1.9781611971163; Ubaru, Chen and Saad,
    https://doi.org/10.1137/16M1104974.
    """
    if not 1 <= steps <= dim:
        raise ValueError(f"steps: must be from 1 to the {dim} rows; received {steps}")
    generator = torch.Generator().manual_seed(seed)

    def signs() -> Tensor:
        return torch.empty(dim).bernoulli_(0.5, generator=generator).mul_(2).sub_(1).to(device, dtype)

    runs, traces = [], []
    for _ in range(num_probes):
        nodes, weights, bounds, first = _run(product, signs().div_(math.sqrt(dim)), steps)
        runs.append(torch.stack([nodes, weights / num_probes, bounds]))
        traces.append(dim * first)
    for _ in range(trace_samples):
        vector = signs()
        traces.append(_finite(product(vector)).dot(vector).item())
    nodes, weights, bounds = torch.cat(runs, 1)
    return Spectrum(nodes, weights, bounds, dim, torch.tensor(traces, dtype=torch.float64))


def _run(product: Callable[[Tensor], Tensor], vector: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor, float]:
    """Ritz values, weights and bounds of one probe of length 1, and its v^T H v."""
    basis = vector.new_zeros(steps, len(vector))
    coefficients = torch.zeros(steps, steps, dtype=torch.float64)  # of H v_j along each v_i, with i <= j
    lengths: list[float] = []  # of what remains of H v_j, and is the next vector's
    eps = torch.finfo(vector.dtype).eps
    for j in range(steps):
        basis[j] = vector
        rest = _finite(product(vector))
        for _ in range(2):
            along = basis[: j + 1] @ rest
            rest = rest - basis[: j + 1].T @ along
            coefficients[: j + 1, j] += along.double().cpu()
        lengths.append(rest.norm().item())
        if lengths[-1] <= ROUNDINGS * eps * coefficients.abs().max().item():
            break
        vector = rest / lengths[-1]
    m = len(lengths)
    above = torch.tensor(lengths[: m - 1], dtype=torch.float64)
    tridiagonal = coefficients.diagonal()[:m].diag() + above.diag(1) + above.diag(-1)
    nodes, vectors = torch.linalg.eigh(tridiagonal)
    # H V - V T: what remains after the last step, and what exact products would not have had along earlier vectors
    strays = coefficients[:m, :m] - tridiagonal.triu()
    bounds = torch.hypot(lengths[-1] * vectors[-1].abs(), (strays @ vectors).norm(dim=0))
    return nodes, vectors[0] ** 2, bounds + ROUNDINGS * eps * nodes.abs().max(), coefficients[0, 0].item()


def _finite(product: Tensor) -> Tensor:
    if not product.isfinite().all():
        raise ValueError("a product with the Hessian is not finite")
    return product
