"""BLEU of translations. Papineni and others, https://aclanthology.org/P02-1040."""

from collections import Counter
from collections.abc import Sequence

import torch
from torchmetrics.text import BLEUScore


class BLEU(BLEUScore):
    """torchmetrics' BLEU, counted in whole numbers before it reaches a tensor, and with one reference or several per sentence.

    The geometric mean over n of the share of n-grams that occur in a reference, times exp(1 - r / p) where the predictions' p words
    are fewer than the references' r; 0 where the corpus matches no n-gram of some n.

    Args:
        n_gram: longest n-grams that are compared.
        smooth: whether one is added to the counts of n-grams of two words and more.
        weights: of each n in the geometric mean; null: equal.

    Shape:
        preds: N sentences; target: N sentences, or N lists of sentences.
    """

    full_state_update = False

    def update(self, preds: Sequence[str], target: Sequence[str | Sequence[str]]) -> None:
        """Count a batch."""
        preds_len = target_len = 0
        matching, all_of_them = [0] * self.n_gram, [0] * self.n_gram
        for pred, given in zip(preds, target, strict=True):
            words, references = pred.split(), [r.split() for r in ([given] if isinstance(given, str) else given)]
            preds_len += len(words)
            target_len += min(map(len, references), key=lambda length: abs(length - len(words)))
            for n in range(1, self.n_gram + 1):
                found, wanted = n_grams(words, n), Counter[tuple[str, ...]]()
                for reference in references:
                    wanted |= n_grams(reference, n)
                matching[n - 1] += (found & wanted).total()
                all_of_them[n - 1] += found.total()
        self.preds_len = self.preds_len + preds_len
        self.target_len = self.target_len + target_len
        self.numerator = self.numerator + torch.tensor(matching).to(self.numerator)
        self.denominator = self.denominator + torch.tensor(all_of_them).to(self.denominator)


def n_grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """How often each run of n words occurs."""
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))
