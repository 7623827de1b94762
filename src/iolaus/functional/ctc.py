"""Label sequences from frames of a CTC model. Graves, https://doi.org/10.1007/978-3-642-24797-2, chapter 7; Hannun and others, https://arxiv.org/abs/1408.2873."""

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def ctc_greedy(log_probs: Tensor, lengths: Tensor, blank: int = 0) -> Tensor:
    """The labels of the likeliest alignment: the likeliest label of each frame, repeats collapsed, blanks removed.

    Args:
        log_probs: of labels in frames; any scores in the same order do.
        lengths: frames of each sample; what stands in the others counts nothing.
        blank: the label that stands for none.

    Shape:
        log_probs: (B, T, V); lengths: (B,); output: (B, L) int64, L that of the longest, padded by blank.

    Raises:
        ValueError: for a blank that is no label.
    """
    _check_blank(blank, log_probs)
    frame = torch.arange(log_probs.shape[1], device=log_probs.device)
    best = log_probs.argmax(-1).where(frame < lengths.to(frame.device)[:, None], blank)
    new = best != F.pad(best, (1, 0), value=blank)[:, :-1]
    label = new & (best != blank)
    sample, at = label.nonzero(as_tuple=True)
    tokens = torch.full_like(best, blank)
    tokens[sample, label.cumsum(1)[sample, at] - 1] = best[sample, at]
    return tokens[:, : int(label.sum(1).max())]


@torch.no_grad()
def ctc_beam_search(log_probs: Tensor, lengths: Tensor, beam_width: int, blank: int = 0) -> tuple[Tensor, Tensor]:
    """The likeliest label sequence, summed over alignments, found by following the W likeliest prefixes from frame to frame.

    Each prefix has two probabilities, of the alignments that end in blank and of those that end in its last label: a
    repeated label begins a new one only after a blank. All samples and prefixes go together; the loop is over frames.

    Args:
        log_probs: of labels in frames, normalised (log_softmax).
        lengths: frames of each sample; what stands in the others counts nothing.
        beam_width: W, number of prefixes.
        blank: the label that stands for none.

    Shape:
        log_probs: (B, T, V); lengths: (B,); output: tokens (B, L) int64, L that of the longest, padded by blank; scores (B,), the log
        probability of the tokens, or less where alignments went through prefixes that were given up.

    Raises:
        ValueError: for a beam_width below 1 or a blank that is no label.
    """
    _check_blank(blank, log_probs)
    if beam_width < 1:
        raise ValueError(f"beam_width must be at least 1; received {beam_width}")
    batch_size, _, num_labels = log_probs.shape
    log_probs = _blank_after(lengths, log_probs, blank)
    labels = torch.arange(num_labels, device=log_probs.device)
    # One column more than the longest prefix has labels, so that each prefix has a place for the next one.
    tokens = torch.full((batch_size, beam_width, 1), blank, device=log_probs.device)
    size = torch.zeros_like(tokens[..., 0])
    common = tokens.new_zeros(batch_size, beam_width, beam_width)  # labels that two prefixes begin with alike
    in_label = log_probs.new_full((batch_size, beam_width), -torch.inf)
    in_blank = in_label.clone()
    in_blank[:, 0] = 0  # one empty prefix; where both are -inf, there is none
    for frame in log_probs.unbind(1):
        either = torch.logaddexp(in_blank, in_label)
        last = tokens.gather(2, (size - 1).clamp(min=0)[..., None])  # blank for the empty prefix
        longer = torch.where(labels == last, in_blank[..., None], either[..., None]) + frame[:, None]
        longer[..., blank] = -torch.inf
        # A prefix that is another one and a label (both followed) is reached from there too: this part is joined to it, or it would be
        # followed twice.
        whole = common == size[..., None]  # (B, from, to), as what follows
        reached = whole & (size[:, None] == size[..., None] + 1) & (either > -torch.inf)[:, None]
        by = last.transpose(1, 2).where(reached, blank)
        joined = longer.gather(2, by).amax(1)
        longer = longer.scatter(2, by, -torch.inf)

        stay_blank = either + frame[:, blank, None]
        stay_label = torch.logaddexp(in_label + frame.gather(1, last[..., 0]), joined)
        score, chosen = torch.cat([torch.logaddexp(stay_blank, stay_label), longer.flatten(1)], 1).topk(beam_width)
        stays, extension = chosen < beam_width, chosen - beam_width
        source = chosen.where(stays, extension // num_labels)
        in_blank = stay_blank.gather(1, source).masked_fill(~stays, -torch.inf)
        in_label = stay_label.gather(1, source).where(stays, score)
        size = size.gather(1, source)
        label = (extension % num_labels).masked_fill(stays, blank)
        tokens = tokens.gather(1, source[..., None].expand_as(tokens)).scatter(2, size[..., None], label[..., None])
        size = size + ~stays
        tokens = F.pad(tokens, (0, 1), value=blank)[..., : int(size.max()) + 1]
        common = common.gather(1, source[..., None].expand_as(common)).gather(2, source[:, None].expand_as(common))
        following = tokens.gather(2, common)  # the first's label after the common ones; blank where it has none
        common = common + ((following == following.mT) & (following != blank))
    return tokens[:, 0, : int(size[:, 0].max())], torch.logaddexp(in_blank, in_label)[:, 0]


def _blank_after(lengths: Tensor, log_probs: Tensor, blank: int) -> Tensor:
    """Log probabilities, float32 at least, with a certain blank in each frame after a sample's last, which changes no score."""
    log_probs = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
    certain = log_probs.new_full(log_probs.shape[2:], -torch.inf)
    certain[blank] = 0
    frame = torch.arange(log_probs.shape[1], device=log_probs.device)
    return log_probs.where((frame < lengths.to(frame.device)[:, None])[..., None], certain)


def _check_blank(blank: int, log_probs: Tensor) -> None:
    if not 0 <= blank < log_probs.shape[-1]:
        raise ValueError(f"blank must be a label, 0 to {log_probs.shape[-1] - 1}; received {blank}")
