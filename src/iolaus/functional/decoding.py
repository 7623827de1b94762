"""Tokens from a model of the next token: greedy, by beam search (https://arxiv.org/abs/1609.08144, section 7), by sampling (https://arxiv.org/abs/1904.09751)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Step = Callable[[Tensor, Tensor], Tensor]
"""(prefix (N, L) int64, owner (N,) int64) to logits (N, V) of the next token; owner: which sample of the batch a row belongs to."""


@torch.no_grad()
def greedy(
    step: Step,
    batch_size: int,
    bos: int,
    eos: int,
    max_length: int,
    pad: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """The likeliest next token, again and again, until each sample has ended.

    Samples that have ended are not sent to the model again.

    Args:
        step: the model; prefixes begin with bos.
        batch_size: B.
        bos: token that begins every prefix; not in the result.
        eos: token that ends a sequence; in the result, where it came.
        max_length: most tokens of a result, eos counted.
        pad: what stands after eos.
        device: of prefixes and result.

    Shape:
        output: (B, L) int64, L at most max_length.

    Raises:
        ValueError: for a size below 1.
    """
    _check_least(1, batch_size=batch_size, max_length=max_length)
    tokens = torch.full((batch_size, 1), bos, device=device)
    unfinished = torch.ones(batch_size, dtype=torch.bool, device=device)
    for _ in range(max_length):
        rows = unfinished.nonzero()[:, 0]
        if not len(rows):
            break
        following = torch.full_like(tokens[:, 0], pad)
        following[rows] = step(tokens[rows], rows).argmax(-1)
        tokens = torch.cat([tokens, following[:, None]], 1)
        unfinished &= following != eos
    return tokens[:, 1:]


@torch.no_grad()
def beam_search(
    step: Step,
    batch_size: int,
    bos: int,
    eos: int,
    max_length: int,
    beam_width: int,
    length_penalty: float = 0.0,
    pad: int = 0,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """The W best sequences found when the W likeliest prefixes are followed: score = (sum of log probabilities) / length^length_penalty.

    In each step the W likeliest continuations that go on are followed, and those among the W likeliest of all that end are kept, if they
    are among the W best kept. A prefix is given up when no continuation of it can be among the W best kept (its log
    probability can but fall), which changes no result; a sample stops when none is left. Sequences of max_length tokens count as
    they are. A beam of one without penalty is the greedy search. Continuations of exactly equal probability come in any order.

    Args:
        step: the model; prefixes begin with bos, and its rows are those still followed, of all samples.
        batch_size: B.
        bos: token that begins every prefix; not in the result.
        eos: token that ends a sequence; in the result, where it came, and counted in the length.
        max_length: most tokens of a result, eos counted.
        beam_width: W.
        length_penalty: 0: none; 1: mean log probability; larger values favour longer sequences.
        pad: what stands after eos.
        device: of prefixes and result.

    Shape:
        output: tokens (B, W, L) int64, best first, L that of the longest; scores (B, W). Where there are fewer than W sequences
        of a probability above 0, the rest are pad, with a score of -inf.

    Raises:
        ValueError: for a size below 1.
    """
    _check_least(1, batch_size=batch_size, max_length=max_length, beam_width=beam_width)
    owner = torch.arange(batch_size, device=device).repeat_interleave(beam_width)
    prefix = torch.full((batch_size, beam_width, 1), bos, device=device)
    score = torch.full((batch_size, beam_width), -torch.inf, device=device)  # -inf: there is none
    kept, kept_length = prefix[..., :0], torch.zeros_like(prefix[..., 0])
    log_prob = score.clone()
    log_prob[:, 0] = 0  # one empty prefix; W of them would find each sequence W times
    for length in range(1, max_length + 1):
        rows = (log_prob > -torch.inf).flatten().nonzero()[:, 0]
        if not len(rows):
            break
        total = _continued(log_prob, rows, step(prefix.flatten(0, 1)[rows], owner[rows]))
        # At most W continuations end, one of each prefix, so W that go on are among the first 2 W.
        likeliest, index = total.flatten(1).topk(min(2 * beam_width, total[0].numel()))
        token = index % total.shape[2]
        prefix = torch.cat([_take(prefix, index // total.shape[2]), token[..., None]], -1)
        ended = (token == eos) | (length == max_length)

        new_score = likeliest.masked_fill(~ended, -torch.inf)[:, :beam_width] / length**length_penalty
        score, chosen = torch.cat([score, new_score], 1).topk(beam_width)
        kept = _take(torch.cat([F.pad(kept, (0, 1), value=pad), prefix[:, :beam_width, 1:]], 1), chosen)
        kept_length = torch.cat([kept_length, torch.full_like(kept_length, length)], 1).gather(1, chosen)

        log_prob, chosen = likeliest.masked_fill(ended, -torch.inf).topk(beam_width)
        prefix = _take(prefix, chosen)
        best_length = max_length if length_penalty >= 0 else length + 1
        log_prob = log_prob.masked_fill(log_prob / best_length**length_penalty <= score[:, -1:], -torch.inf)
    absent = score == -torch.inf
    longest = int(kept_length.masked_fill(absent, 0).max())
    return kept.masked_fill(absent[..., None], pad)[..., :longest], score


@torch.no_grad()
def sample(
    step: Step,
    prefix: Tensor,
    length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue each prefix by tokens drawn from the model's distribution, filtered as `filtered` says.

    Args:
        step: the model.
        prefix: what to continue.
        length: number of tokens to add.
        temperature: see `filtered`; 0: always the likeliest token.
        top_k: see `filtered`.
        top_p: see `filtered`.
        generator: of the draws, on the device of the logits; None: torch's own.

    Shape:
        prefix: (B, L) int64; output: (B, L + length), the prefix included.

    Raises:
        ValueError: for a negative length, and as `filtered` does.
    """
    _check_least(0, length=length)
    owner = torch.arange(len(prefix), device=prefix.device)
    for _ in range(length):
        probs = filtered(step(prefix, owner), temperature, top_k, top_p).softmax(-1)
        prefix = torch.cat([prefix, torch.multinomial(probs, 1, generator=generator)], 1)
    return prefix


def filtered(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Logits / temperature, and -inf for the tokens that are not to be drawn; first by top_k, then by top_p of what is left.

    Args:
        logits: of the next token.
        temperature: below 1 sharpens the distribution, above 1 flattens it; 0 leaves the likeliest token alone.
        top_k: how many of the likeliest tokens to leave, of equal ones the first; None: all.
        top_p: leave the smallest set of likeliest tokens whose probability reaches this; None: all.

    Shape:
        logits: (..., V); output: as logits, float32 at least.

    Raises:
        ValueError: for a temperature below 0, a top_k below 1, a top_p that is not in (0, 1].
    """
    _check_least(0, temperature=temperature)
    if top_k is not None:
        _check_least(1, top_k=top_k)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1; received {top_p}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature == 0:
        likeliest = logits.argmax(-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(-1, likeliest, logits.gather(-1, likeliest))
    logits = logits / temperature
    if top_k is None and top_p is None:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        ordered[..., top_k:] = -torch.inf
    if top_p is not None and top_p < 1:  # rounded sums may reach 1 before the last token
        before = F.pad(ordered.softmax(-1).cumsum(-1)[..., :-1], (1, 0))
        ordered = ordered.masked_fill(before >= top_p, -torch.inf)
    return torch.empty_like(logits).scatter(-1, order, ordered)


def _continued(log_prob: Tensor, rows: Tensor, logits: Tensor) -> Tensor:
    """Log probabilities (B, W, V) of all prefixes continued by each token; logits are those of `rows` of the B * W prefixes."""
    logits = logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    following = logits.new_full((log_prob.numel(), logits.shape[1]), -torch.inf).index_copy(0, rows, logits)
    return log_prob[..., None] + following.view(*log_prob.shape, -1)


def _take(sequences: Tensor, index: Tensor) -> Tensor:
    """Of sequences (B, N, L) those at index (B, M), as (B, M, L)."""
    return sequences.gather(1, index[..., None].expand(-1, -1, sequences.shape[2]))


def _check_least(least: int, **values: float) -> None:
    for name, value in values.items():
        if not value >= least:  # so that NaN is refused too
            raise ValueError(f"{name} must be at least {least}; received {value}")
