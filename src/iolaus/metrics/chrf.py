"""chrF++ of translations: n-grams of characters and words. Popovic, https://aclanthology.org/W17-4770."""

from collections import Counter
from collections.abc import Sequence
from string import punctuation
from typing import Any

from torchmetrics.text import CHRFScore

Counts = dict[tuple[str, int], Counter[Any]]  # n-grams by level (char, word) and n


class CHRF(CHRFScore):
    """torchmetrics' chrF, counted in plain numbers (a hundred times as fast), and with one reference or several per sentence.

    The mean over n of the F-score with recall counted beta times as much as precision; of several references the one with the best
    score counts. A sentence without any match counts with all n-grams of its first reference, as in sacreBLEU; torchmetrics leaves
    that reference out, so that empty predictions would cost nothing.

    Args:
        n_char_order: longest n-grams of characters.
        n_word_order: longest n-grams of words; 0: chrF, 2: chrF++.
        beta: how much more recall counts than precision.
        lowercase: whether upper case is the same as lower case.
        whitespace: whether n-grams of characters have spaces in them.
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds: N sentences; target: N sentences, or N lists of sentences.
    """

    full_state_update = False

    def __init__(
        self,
        n_char_order: int = 6,
        n_word_order: int = 2,
        beta: float = 2.0,
        lowercase: bool = False,
        whitespace: bool = False,
        **base: Any,
    ):
        super().__init__(n_char_order, n_word_order, beta, lowercase, whitespace, **base)

    def update(self, preds: Sequence[str], target: Sequence[str | Sequence[str]]) -> None:
        """Count a batch."""
        totals: Counter[str] = Counter()
        for pred, given in zip(preds, target, strict=True):
            found = self._count(pred)
            references = [self._count(r) for r in ([given] if isinstance(given, str) else given)]
            wanted = references[0]
            if len(references) > 1:
                wanted = max(references, key=lambda reference: self._f_score(found, reference))
            for (level, n), counts in found.items():
                totals[f"total_preds_{level}_{n}_grams"] += counts.total()
                totals[f"total_target_{level}_{n}_grams"] += wanted[level, n].total()
                totals[f"total_matching_{level}_{n}_grams"] += (counts & wanted[level, n]).total()
        for name, total in totals.items():
            setattr(self, name, getattr(self, name) + total)

    def _count(self, sentence: str) -> Counts:
        sentence = sentence.lower() if self.lowercase else sentence
        chars = sentence if self.whitespace else "".join(sentence.split())
        words = [part for word in sentence.split() for part in apart(word)]
        counts: Counts = {}
        for n in range(1, self.n_char_order + 1):
            counts["char", n] = Counter(chars[i : i + n] for i in range(len(chars) - n + 1))
        for n in range(1, self.n_word_order + 1):
            counts["word", n] = Counter(zip(*(words[i:] for i in range(n)), strict=False))
        return counts

    def _f_score(self, found: Counts, wanted: Counts) -> float:
        """Sum over n of a sentence's F-scores."""
        score = 0.0
        for key, counts in found.items():
            if matching := (counts & wanted[key]).total():
                precision, recall = matching / counts.total(), matching / wanted[key].total()
                score += (1 + self.beta**2) * precision * recall / (self.beta**2 * precision + recall)
        return score


def apart(word: str) -> list[str]:
    """A word and the punctuation mark at its end, or else at its beginning."""
    if len(word) > 1 and word[-1] in punctuation:
        return [word[:-1], word[-1]]
    if len(word) > 1 and word[0] in punctuation:
        return [word[0], word[1:]]
    return [word]
