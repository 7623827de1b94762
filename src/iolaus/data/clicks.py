"""What data of users and items have in common: each user's last click is held out among items never clicked, negatives are drawn."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils.data import Dataset

from iolaus.data.base import DataModule
from iolaus.data.memory import InMemory, Ragged
from iolaus.data.order import permutation
from iolaus.errors import UserError, did_you_mean
from iolaus.functional.keys import mix

log = logging.getLogger("iolaus")

LARGE = 2**62  # draws below it, modulo a number of items, are uniform but for one part in a billion


class Unclicked:
    """The items that each user did not click, in ascending order, found by their position among them.

    With a user's clicked items c_0 < c_1 < ..., the r-th of the others (from 0) is r + j, where j counts the i with c_i - i <= r.
    That is one binary search a number, and no draw is rejected.

    Args:
        users: (N,) of each click.
        items: (N,) of each click; the pairs are distinct, and sorted by user, then by item.
        num_users: number of users.
        num_items: number of items.
    """

    def __init__(self, users: torch.Tensor, items: torch.Tensor, num_users: int, num_items: int):
        counts = torch.bincount(users, minlength=num_users)
        self.num_items = num_items
        self.free = num_items - counts
        self.first = counts.cumsum(0) - counts
        position = torch.arange(len(users)) - self.first[users]
        self._shifted = users.long() * num_items + items - position

    def at(self, users: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
        """The items at these positions.

        Shape:
            users: (B,) int64; ranks: (B, K) int64, each below the user's `free`; output: (B, K).
        """
        clicked_before = torch.searchsorted(self._shifted, users[:, None] * self.num_items + ranks, right=True)
        return ranks + clicked_before - self.first[users][:, None]

    def distinct(self, users: torch.Tensor, k: int, generator: torch.Generator) -> torch.Tensor:
        """Different items of each user, k of them, all sets equally likely.

        Floyd's algorithm for all users at once. Bentley and Floyd, https://doi.org/10.1145/30401.315746

        Shape:
            users: (B,), with k free items at least; output: (B, k).
        """
        chosen = torch.empty(len(users), k, dtype=torch.int64)
        for j in range(k):
            last = self.free[users] - k + j
            drawn = torch.randint(LARGE, (len(users),), generator=generator) % (last + 1)
            taken = (chosen[:, :j] == drawn[:, None]).any(1)
            chosen[:, j] = torch.where(taken, last, drawn)
        return self.at(users, chosen)

    def to(self, device: torch.device) -> "Unclicked":
        """The same on a device."""
        moved = object.__new__(Unclicked)
        moved.num_items = self.num_items
        moved.free, moved.first, moved._shifted = (t.to(device) for t in (self.free, self.first, self._shifted))
        return moved


class Negatives:
    """Adds items that the user did not click in training to each click of a batch, uniformly drawn, with repetitions.

    Args:
        unclicked: of the training split.
        num_negatives: how many for each click, K.

    Shape:
        users: (B,); items: (B, 1) clicked; target: (B, 1) ones; output: users (B,), items (B, 1 + K), target (B, 1 + K).
    """

    def __init__(self, unclicked: Unclicked, num_negatives: int):
        self.unclicked = unclicked
        self.num_negatives = num_negatives

    def __call__(
        self, users: torch.Tensor, items: torch.Tensor, target: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw."""
        if self.unclicked.free.device != users.device:
            self.unclicked = self.unclicked.to(users.device)
        draws = torch.randint(LARGE, (len(users), self.num_negatives), generator=generator).to(users.device)
        drawn = self.unclicked.at(users, draws % self.unclicked.free[users][:, None])
        return users, torch.cat([items, drawn], 1), torch.cat([target, torch.zeros_like(drawn, dtype=target.dtype)], 1)


class ClickedPairs(InMemory):
    """Clicks to train on.

    Args:
        users: (N,).
        items: (N,).

    Shape:
        batch: users (B,) int64, items (B, 1) int64, target (B, 1) float32 ones.
    """

    def __init__(self, users: torch.Tensor, items: torch.Tensor):
        self.users = users
        self.items = items

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Clicks by their numbers."""
        items = self.items[rows].long()[:, None]
        return self.users[rows].long(), items, torch.ones_like(items, dtype=torch.float32)

    def parts(self) -> list[torch.Tensor]:
        """Users and items."""
        return [self.users, self.items]

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return type(self)(*(part.to(device) for part in self.parts()))


class HeldOut(InMemory):
    """One held-out click of each user among candidates that the user never clicked.

    Args:
        users: (N,), each once.
        candidates: (N, C) items.
        clicked: (N,) the column of the clicked one.

    Shape:
        batch: users (B,) int64, items (B, C) int64, target (B, C) float32 with one 1 a row.
    """

    def __init__(self, users: torch.Tensor, candidates: torch.Tensor, clicked: torch.Tensor):
        self.users = users
        self.candidates = candidates
        self.clicked = clicked

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Users by their rows."""
        items = self.candidates[rows].long()
        target = torch.zeros_like(items, dtype=torch.float32)
        target.scatter_(1, self.clicked[rows].long()[:, None], 1.0)
        return self.users[rows].long(), items, target

    def parts(self) -> list[torch.Tensor]:
        """Users, candidates, columns."""
        return [self.users, self.candidates, self.clicked]

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return type(self)(*(part.to(device) for part in self.parts()))


class Clicks(DataModule):
    """Users, items, and who clicked what. A subclass's `load` sets the names and returns `hold_out(...)`.

    Each user's latest click is the test and the one before it the validation, each among `num_candidates` items that the user never
    clicked, fixed by the seed; the column of the clicked one is drawn, so that a model that scores all items alike gains nothing. A user
    with two clicks has no validation, one with a single click stays in training, and so does one who left fewer items unclicked.
    Training rows are the other clicks; each batch draws its negatives anew, see Negatives.

    Args:
        num_users: number of users; None: `load` sets it.
        num_items: number of items; None: `load` sets it.
        num_negatives: unclicked items that each training click is compared with.
        num_candidates: unclicked items that each held-out click is ranked among.
        base: the settings that every data set has. val_fraction and test_fraction have no part in it.

    Raises:
        ValueError: for numbers below 1.
        UserError: where no click can be held out.
    """

    no_folds = "of each user the latest click is the test and the one before it the validation, so that nothing is foretold from later"

    def __init__(
        self,
        num_users: int | None = None,
        num_items: int | None = None,
        num_negatives: int = 8,
        num_candidates: int = 100,
        **base: Any,
    ):
        super().__init__(**base)
        numbers = {"num_users": num_users, "num_items": num_items}
        numbers |= {"num_negatives": num_negatives, "num_candidates": num_candidates}
        for name, number in numbers.items():
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1; received {number}")
        self.num_users = num_users
        self.num_items = num_items
        self.num_negatives = num_negatives
        self.num_candidates = num_candidates
        self.users: list[str] = []  # names
        self.items: list[str] = []
        self.clicked = Ragged(torch.empty(0, dtype=torch.int32), torch.zeros(1, dtype=torch.int64))  # in training
        self._numbers: dict[str, int] = {}  # of users by name

    def hold_out(
        self, users: torch.Tensor, items: torch.Tensor, time: torch.Tensor | None = None
    ) -> dict[str, Dataset]:
        """The three splits.

        A repeated click counts once, at its first time.

        Args:
            users: (N,) numbers of users, of each click.
            items: (N,) numbers of items.
            time: (N,), equal times in the order of the rows; None: an order drawn by the seed.
        """
        num_users, num_items = len(self.users), len(self.items)
        self._check_number("num_users", num_users)
        self._check_number("num_items", num_items)
        time = permutation(len(users), self.seed, 1) if time is None else time
        by_time = time.argsort(stable=True)
        users, items = users[by_time].long(), items[by_time].long()
        pairs = users * num_items + items
        order = pairs.argsort(stable=True)
        is_first = torch.ones_like(order, dtype=torch.bool)
        is_first[1:] = pairs[order].diff() != 0
        by_pair = order[is_first]
        everything = Unclicked(users[by_pair], items[by_pair], num_users, num_items)
        kept = by_pair.sort().values
        kept = kept[users[kept].argsort(stable=True)]  # by user, then by time
        users, items = users[kept], items[kept]
        clicks = num_items - everything.free
        last = (everything.first + clicks)[users] - 1 - torch.arange(len(users))  # 0 for a user's latest click
        can_rank = everything.free >= self.num_candidates
        self._tell(clicks, can_rank)
        splits: dict[str, Dataset] = {}
        is_held = torch.zeros_like(is_first[: len(users)])
        for number, name in enumerate(("test", "val")):
            rows = ((last == number) & (clicks[users] > number + 1) & can_rank[users]).nonzero()[:, 0]
            is_held[rows] = True
            splits[name] = self._among_candidates(users[rows], items[rows], everything, mix(self.seed, number))
        users, items = users[~is_held], items[~is_held]
        order = (users * num_items + items).argsort()
        users, items = users[order], items[order]
        counts = torch.bincount(users, minlength=num_users)
        self.clicked = Ragged(items.int(), torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]))
        has_negatives = counts[users] < num_items
        return {"train": ClickedPairs(users[has_negatives].int(), items[has_negatives].int()), **splits}

    def _check_number(self, name: str, found: int) -> None:
        """Set a fact that the settings leave to the data; refuse data that contradict it."""
        stated = getattr(self, name)
        if stated is not None and stated != found:
            what = name.removeprefix("num_")
            raise UserError(f"data.{name}: says {stated}, but the data have {found} {what}; set it to null")
        setattr(self, name, found)

    def _tell(self, clicks: torch.Tensor, can_rank: torch.Tensor) -> None:
        """Say which users have nothing held out, and refuse data without any that has."""
        if single := int((clicks == 1).sum()):
            log.info("data: %d of %d users have a single click; it stays in training", single, len(clicks))
        repeated = clicks > 1
        if not repeated.any():
            raise UserError("data: no user has two different clicked items, so that none can be held out for the test")
        if full := int((repeated & ~can_rank).sum()):
            log.info(
                "data: %d users left fewer than data.num_candidates=%d items unclicked; their clicks stay in training",
                full,
                self.num_candidates,
            )
        if not (repeated & can_rank).any():
            most = int((len(self.items) - clicks[repeated]).max())
            raise UserError(
                f"data.num_candidates: {self.num_candidates}, but no user with two clicks left more than {most} of the "
                f"{len(self.items)} items unclicked; "
                + (f"set data.num_candidates={most} or fewer" if most else "there is nothing to rank")
            )
        if not (can_rank & (clicks > 2)).any():
            raise UserError(
                f"data: no user has three different clicked items and {self.num_candidates} unclicked ones, so that the "
                "validation split is empty"
            )

    def _among_candidates(self, users: torch.Tensor, items: torch.Tensor, unclicked: Unclicked, key: int) -> HeldOut:
        """Held-out clicks, each at a drawn column among items that the user never clicked."""
        generator = torch.Generator().manual_seed(key)
        others = unclicked.distinct(users, self.num_candidates, generator)
        column = torch.randint(self.num_candidates + 1, (len(users), 1), generator=generator)
        candidates = torch.cat([others, items[:, None]], 1)
        candidates[:, -1:] = candidates.gather(1, column)
        candidates.scatter_(1, column, items[:, None])
        return HeldOut(users.int(), candidates.int(), column[:, 0].int())

    def fit_splits(self) -> None:
        """Negatives are drawn among what the user did not click in training."""
        offsets = self.clicked.offsets
        users = torch.arange(len(self.clicked)).repeat_interleave(offsets.diff())
        unclicked = Unclicked(users, self.clicked.values.long(), len(self.users), len(self.items))
        self.augmentations.append(Negatives(unclicked, self.num_negatives))

    def facts(self) -> dict[str, Any]:
        """num_users and num_items too."""
        return super().facts() | {"num_users": self.num_users, "num_items": self.num_items}

    def preferences(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor | None:
        """What the users truly think of the items, (B, C), where the data were generated; None where nobody knows."""
        return None

    def numbers(self, users: list[str], where: str = "") -> torch.Tensor:
        """The numbers of users by their names, (B,).

        Args:
            users: names.
            where: of a file and line, for the message.

        Raises:
            UserError: for a user that the training data do not have, with the nearest name.
        """
        if len(self._numbers) != len(self.users):
            self._numbers = {name: number for number, name in enumerate(self.users)}
        for name in users:
            if name not in self._numbers:
                raise UserError(
                    f"predict: {where}there is no user {name!r} in the training data{did_you_mean(name, self.users)}  "
                    f"(it has {len(self.users)}, such as {', '.join(map(repr, self.users[:3]))})"
                )
        return torch.tensor([self._numbers[name] for name in users], dtype=torch.int64)

    def new_items(self, source: Path | str) -> Iterator[Any]:
        """Names of users: a line each of a file, or between commas of a text."""
        if isinstance(source, str):
            lines = source.split(",")
        else:
            try:
                lines = source.read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError:
                raise UserError(f"{source}: is not text in UTF-8; write a user a line") from None
        names = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
        if not names:
            raise UserError(f"predict: {source!s} names no user; write a user a line, or several between commas")
        for number, name in names:
            try:
                self.numbers([name], f"{source} line {number}: " if isinstance(source, Path) else "")
            except UserError as error:
                yield self.bad_item(error)
            else:
                yield name

    def state_dict(self) -> dict[str, Any]:
        clicked = {"items": self.clicked.values, "offsets": self.clicked.offsets}
        return {"users": self.users, "items": self.items, "clicked": clicked}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.users, self.items, clicked = state_dict["users"], state_dict["items"], state_dict["clicked"]
        self.clicked = Ragged(clicked["items"], clicked["offsets"])
        self._numbers = {}
