"""Clicks: what is held out and drawn against counting by hand, files in MovieLens' own formats, wrong files."""

import collections
import datetime
import itertools
import random

import pytest
import torch
from scipy.stats import chisquare

from iolaus.data import interactions_csv
from iolaus.data.clicks import Negatives, Unclicked
from iolaus.data.interactions import Interactions
from iolaus.data.interactions_csv import InteractionsCsv
from iolaus.data.movielens import MovieLens
from iolaus.errors import UserError
from iolaus.functional.keys import mix

FACTS = {"input_kind": "user_item", "input_shape": None, "target_kind": "click", "standardize": False}


def generated(**settings):
    data = Interactions(
        **({"num_users": 120, "num_items": 80, "impressions": 60, "num_candidates": 20} | settings), **FACTS
    )
    data.setup()
    return data


def training_pairs(data):
    train = data.datasets["train"]
    return set(zip(train.users.tolist(), train.items.tolist(), strict=True))


def held_pairs(data, split):
    users, items, target = data.datasets[split].take(torch.arange(len(data.datasets[split])))
    assert target.sum(1).eq(1).all()
    return list(zip(users.tolist(), items[target > 0].tolist(), strict=True))


def candidates(data, split):
    users, items, _ = data.datasets[split].take(torch.arange(len(data.datasets[split])))
    return dict(zip(users.tolist(), items.tolist(), strict=True))


def test_items_that_were_not_clicked_are_found_by_counting():
    chooser = random.Random(0)
    clicked = {user: sorted(chooser.sample(range(12), k)) for user, k in enumerate((3, 0, 11, 1, 5))}
    users = torch.tensor([user for user, items in clicked.items() for _ in items])
    unclicked = Unclicked(users, torch.tensor(list(itertools.chain(*clicked.values()))), 5, 12)
    for user, items in clicked.items():
        others = [i for i in range(12) if i not in items]
        assert unclicked.free[user] == len(others)
        assert unclicked.at(torch.tensor([user]), torch.arange(len(others))[None])[0].tolist() == others


def test_sets_of_candidates_are_equally_likely():
    """All 10 pairs of the 5 free items, against the chi-squared test."""
    unclicked = Unclicked(torch.tensor([0, 0]), torch.tensor([1, 4]), 1, 7)
    found = unclicked.distinct(torch.zeros(5000, dtype=torch.int64), 2, torch.Generator().manual_seed(0))
    counts = collections.Counter(tuple(sorted(pair)) for pair in found.tolist())
    assert set(counts) == set(itertools.combinations([0, 2, 3, 5, 6], 2))
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_negatives_are_uniform_over_what_was_not_clicked():
    unclicked = Unclicked(torch.tensor([0, 0, 1]), torch.tensor([0, 3, 5]), 2, 6)
    users = torch.tensor([0, 1]).repeat_interleave(1000)
    batch = users, torch.zeros(2000, 1, dtype=torch.int64), torch.ones(2000, 1)
    _, items, target = Negatives(unclicked, 3)(*batch, torch.Generator().manual_seed(0))
    assert torch.equal(target, torch.tensor([1.0, 0, 0, 0]).expand(2000, -1))
    for user, free in ((0, [1, 2, 4, 5]), (1, [0, 1, 2, 3, 4])):
        counts = collections.Counter(items[users == user, 1:].flatten().tolist())
        assert sorted(counts) == free
        assert chisquare(list(counts.values())).pvalue > 0.001


def test_splits_are_disjoint_and_candidates_were_never_clicked():
    data = generated()
    train = training_pairs(data)
    test, val = held_pairs(data, "test"), held_pairs(data, "val")
    everything = train | set(test) | set(val)
    assert len(everything) == len(data.datasets["train"]) + len(test) + len(val)
    assert len({user for user, _ in test}) == len(test) > 80
    for split, pairs in (("test", test), ("val", val)):
        chosen = dict(pairs)
        for user, items in candidates(data, split).items():
            assert len(set(items)) == len(items) == 21
            assert {item for item in items if (user, item) in everything} == {chosen[user]}
    columns = torch.cat([data.datasets[split].clicked for split in ("test", "val")])
    assert len(columns.unique()) > 15  # of 21, wherever the held-out click may stand


def test_training_batches_have_clicks_and_what_was_not_clicked():
    data = generated(num_negatives=5, batch_size=32)
    train, seen = training_pairs(data), []
    for users, items, target in data.train_dataloader():
        assert items.shape == target.shape == (len(users), 6)
        for user, row, clicks in zip(users.tolist(), items.tolist(), target.tolist(), strict=True):
            assert [(user, item) in train for item in row] == [bool(c) for c in clicks] == [True] + 5 * [False]
            seen.append((user, row[0]))
    assert sorted(seen) == sorted(train)


def test_negatives_depend_on_seed_epoch_and_batch_alone():
    data = generated()
    batch = data.datasets["train"].take(torch.arange(40))
    (negatives,) = data.augmentations

    def drawn(*key):
        return negatives(*batch, torch.Generator().manual_seed(mix(*key)))[1].tolist()

    assert drawn(0, 3, 7) == drawn(0, 3, 7)
    assert len({str(drawn(*key)) for key in ((0, 3, 7), (0, 3, 8), (0, 4, 7), (1, 3, 7))}) == 4
    first, again = (list(data.train_dataloader()) for _ in range(2))
    assert all(torch.equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))


def test_the_seed_draws_data_and_candidates():
    one, same, other = generated(), generated(), generated(seed=1)
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()


def test_clicks_come_with_the_probability_that_the_preferences_give():
    """A user's clicks are sums of independent draws: the total lies within four deviations of what is expected."""
    data = generated(impressions=80)  # all items, so that nothing hides which were shown
    users, items = torch.arange(120), torch.arange(80).expand(120, -1)
    chance = data.preferences(users, items).sigmoid()
    total = len(training_pairs(data)) + len(data.datasets["val"]) + len(data.datasets["test"])
    assert abs(total - chance.sum()) < 4 * (chance * (1 - chance)).sum().sqrt()
    assert data.items[0].split()[0] in ("ambient", "blues", "choral", "disco", "folk", "funk") or data.items[
        0
    ].endswith(" 1")


def test_what_an_oracle_reaches_is_what_the_docstring_says():
    data = Interactions(**FACTS)
    data.setup()
    users, items, target = data.datasets["test"].take(torch.arange(len(data.datasets["test"])))
    scores = data.preferences(users, items)
    rank = (scores > scores[target > 0][:, None]).sum(1) + 1
    hit_rate = (rank <= 5).double().mean().item()
    assert hit_rate == pytest.approx(0.966, abs=5e-4)
    assert f"{hit_rate:.3f}" in Interactions.__doc__
    assert (data.num_users, data.num_items) == (2000, 400) == (len(data.users), len(data.items))


# Files


def write(path, rows, header="user,item,label,time"):
    path.write_text("\n".join([*([header] if header else []), *rows, ""]), encoding="utf-8")
    return str(path)


def a_table(seed=0, users=15, items=30):
    """Rows of user, item, rating and time, times all different."""
    chooser = random.Random(seed)
    rows = [(f"u{u}", f"i{i}", chooser.randint(1, 5), 0) for u in range(users) for i in chooser.sample(range(items), 9)]
    chooser.shuffle(rows)
    return [
        (user, item, rating, time)
        for (user, item, rating, _), time in zip(rows, chooser.sample(range(10**9), len(rows)), strict=True)
    ]


def named(data, pairs):
    return {(data.users[user], data.items[item]) for user, item in pairs}


def by_hand(table, lowest):
    """Each user's clicks in the order of their times."""
    clicks = collections.defaultdict(list)
    for user, item, rating, _ in sorted(table, key=lambda row: row[3]):
        if rating >= lowest and item not in clicks[user]:
            clicks[user].append(item)
    return {user: items for user, items in clicks.items() if items}


def expected_splits(clicks):
    held = {user: items for user, items in clicks.items() if len(items) > 1}
    test = {(user, items[-1]) for user, items in held.items()}
    val = {(user, items[-2]) for user, items in held.items() if len(items) > 2}
    return {(user, item) for user, items in clicks.items() for item in items} - test - val, val, test


@pytest.mark.parametrize("chunk", [7, 10**6])
@pytest.mark.parametrize("dates", [False, True])
def test_the_latest_click_is_the_test_and_the_one_before_the_validation(tmp_path, monkeypatch, chunk, dates):
    monkeypatch.setattr(interactions_csv, "CHUNK", chunk)
    more = [
        ("once", "i0", 5, 3),
        ("never", "i1", 1, 4),
        ("again", "i2", 5, 1),
        ("again", "i3", 5, 2),
        ("again", "i2", 5, 9),
    ]
    table = [*a_table(), *more]

    def moment(seconds):
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(sep=" ") if dates else seconds

    rows = [f"{user}, {item} ,{rating},{moment(time)}" for user, item, rating, time in table]
    path = write(tmp_path / "t.csv", [*rows[:5], "", *rows[5:]])
    data = InteractionsCsv(path, label="label", time="time", min_rating=4, num_candidates=10, **FACTS)
    data.setup()
    train, val, test = expected_splits(by_hand(table, 4))
    assert named(data, training_pairs(data)) == train
    assert named(data, held_pairs(data, "val")) == val
    assert named(data, held_pairs(data, "test")) == test
    assert {"once", "never", "again"} < set(data.users)
    assert ("again", "i3") in test  # i2 counts at its first time
    assert data.facts()["num_users"] == 18
    assert data.facts()["num_items"] == len({row[1] for row in table})


def test_without_a_time_the_seed_holds_out(tmp_path):
    table = a_table()
    path = write(tmp_path / "t.csv", [f"{user};{item}" for user, item, *_ in table], "wer;was")
    splits = []
    for seed in (0, 0, 1):
        data = InteractionsCsv(
            path, user="wer", item="was", separator="semicolon", num_candidates=10, seed=seed, **FACTS
        )
        data.setup()
        test, val, train = (
            named(data, pairs) for pairs in (held_pairs(data, "test"), held_pairs(data, "val"), training_pairs(data))
        )
        assert train | val | test == {row[:2] for row in table}
        assert len(train) + len(val) + len(test) == len(table)
        splits.append((test, val))
    assert splits[0] == splits[1] != splits[2]


def test_labels_are_clicks(tmp_path):
    table = a_table()
    path = write(
        tmp_path / "t.csv", [f"{user},{item},{rating % 2}" for user, item, rating, _ in table], "user,item,click"
    )
    data = InteractionsCsv(path, label="click", num_candidates=10, **FACTS)
    data.setup()
    every = named(data, training_pairs(data) | set(held_pairs(data, "test")) | set(held_pairs(data, "val")))
    assert every == {row[:2] for row in table if row[2] % 2}


def test_who_left_too_little_unclicked_stays_in_training(tmp_path, caplog):
    caplog.set_level("INFO", "iolaus")
    rows = (
        [f"all,i{i}" for i in range(8)]
        + [f"most,i{i}" for i in range(6)]
        + [f"some,i{i}" for i in range(4)]
        + ["one,i1"]
    )
    data = InteractionsCsv(write(tmp_path / "t.csv", rows, "user,item"), num_candidates=4, **FACTS)
    data.setup()
    assert {user for user, _ in named(data, held_pairs(data, "test"))} == {"some"}
    train = collections.Counter(user for user, _ in named(data, training_pairs(data)))
    assert train == {"most": 6, "some": 2, "one": 1}  # whoever clicked everything has nothing to compare with
    assert data.clicked.lengths.tolist() == [8, 6, 2, 1]
    assert "1 of 4 users have a single click" in caplog.text
    assert "2 users left fewer than data.num_candidates=4 items unclicked" in caplog.text


BAD = {
    "gap": (["a,b,1,2", "a,,1,2"], {}, r"data\.path: .*t\.csv line 3, column 'item': the cell is empty"),
    "short": (["a,b,1,2", "", "a,b"], {"label": "label"}, r"line 4, column 'label': the cell is empty"),
    "long": (["a,b,1,2", "a,b,1,2,3"], {}, r"line 3: has more cells than there are columns"),
    "text": (["a,b,1,2", "a,c,yes,2"], {"label": "label"}, r"data\.label: .* line 3, column 'label': 'yes' is not a number"),
    "rating": (["a,b,1,2", "a,c,3.5,2"], {"label": "label"}, r"line 3, column 'label': 3\.5 is neither 0 nor 1; .* data\.min_rating=4"),
    "time": (["a,b,1,2", "a,c,1,noon"], {"time": "time"}, r"data\.time: .* line 3, column 'time': 'noon' is not a number"),
    "date": (["a,b,1,2024-01-31", "a,c,1,1.2.2024"], {"time": "time"}, r"column 'time': '1\.2\.2024' is not a date as in 2024-12-31"),
    "column": (["a,b,1,2"], {"item": "itm"}, r"data\.item: .* has no column 'itm'; did you mean 'item'\?  \(it has: user, item, "),
    "ratings of what": (["a,b,1,2"], {"min_rating": 4}, r"data\.min_rating: is of ratings; name their column"),
    "nothing": ([], {}, r"has no rows"),
    "no click": (["a,b,1,2"], {"label": "label", "min_rating": 4}, r"has no click in column 'label'; look at data\.min_rating"),
    "one each": (["a,b,1,2", "c,d,1,2"], {}, r"no user has two different clicked items"),
    "few items": ([*(f"a,i{i},1,2" for i in range(3)), "b,i9,1,1"], {}, r".* more than 1 of the 4 items .* set data\.num_candidates=1 or"),
    "all items": ([f"a,i{i},1,2" for i in range(3)], {}, r"there is nothing to rank"),
    "two each": ([f"a,i{i},1,2" for i in range(2)] + ["b,i9,1,1"], {"num_candidates": 1}, r"no user has three different clicked items"),
    "facts": ([f"a,i{i},1,2" for i in range(3)], {"num_users": 7}, r"data\.num_users: says 7, but the data have 1 users; set it to null"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("error")
def test_wrong_files_are_told_by_line(tmp_path, case):
    rows, settings, says = BAD[case]
    with pytest.raises(UserError, match=says):
        InteractionsCsv(write(tmp_path / "t.csv", rows), **settings, **FACTS).setup()


def test_a_line_in_a_later_block_is_told_by_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(interactions_csv, "CHUNK", 3)
    with pytest.raises(UserError, match=r"line 9, column 'user': the cell is empty"):
        InteractionsCsv(write(tmp_path / "t.csv", [*["a,b,1,2"] * 7, ",b,1,2"]), **FACTS).setup()


@pytest.mark.parametrize(("name", "number"), [("num_negatives", 0), ("num_candidates", 0), ("impressions", 81)])
def test_numbers_that_cannot_be(name, number):
    with pytest.raises(ValueError, match=rf"{name} must be .*; received {number}"):
        generated(**{name: number})


# MovieLens: the same ratings and titles as each of its releases writes them.

TITLES = {1: "Toy Story (1995)", 2: "Misérables, Les (1995)", 3: "Star Wars: Episode IV (1977)"}


def movielens(folder, release, ratings):
    folder.mkdir()
    titles = {i: TITLES.get(i, f"Film {i} (1990)") for i in range(1, 13)}
    if release == "latest":
        write(folder / "ratings.csv", [",".join(map(str, row)) for row in ratings], "userId,movieId,rating,timestamp")
        write(folder / "movies.csv", [f'{i},"{t}",Drama|Comedy' for i, t in titles.items()], "movieId,title,genres")
        return folder / "ratings.csv"
    if release == "100k":
        write(folder / "u.data", ["\t".join(map(str, row)) for row in ratings], None)
        text = "\n".join(f"{i}|{t}|01-Jan-1995||http://example.org/{i}|0|0|1" for i, t in titles.items())
        (folder / "u.item").write_bytes(text.encode("latin-1"))
        return folder / "u.data"
    write(folder / "ratings.dat", ["::".join(map(str, row)) for row in ratings], None)
    (folder / "movies.dat").write_bytes(
        "\n".join(f"{i}::{t}::Drama|Comedy" for i, t in titles.items()).encode("latin-1")
    )
    return folder / "ratings.dat"


@pytest.mark.parametrize("whole_folder", [False, True])
@pytest.mark.parametrize("release", ["latest", "100k", "1m"])
def test_movielens(tmp_path, release, whole_folder):
    chooser = random.Random(0)
    ratings = [
        (u, m, chooser.randint(1, 5), 900_000_000 + 13 * u + 7 * m)
        for u in range(1, 9)
        for m in chooser.sample(range(1, 13), 7)
    ]
    file = movielens(tmp_path / "ml", release, ratings)
    data = MovieLens(str(file.parent if whole_folder else file), num_candidates=3, **FACTS)
    data.setup()
    table = [(str(u), TITLES.get(m, f"Film {m} (1990)"), rating, time) for u, m, rating, time in ratings]
    train, val, test = expected_splits(by_hand(table, 4))
    assert named(data, training_pairs(data)) == train
    assert named(data, held_pairs(data, "val")) == val
    assert named(data, held_pairs(data, "test")) == test
    assert set(TITLES.values()) < set(data.items)


def test_movielens_without_titles_and_half_stars(tmp_path):
    rows = [f"{u},{m},{4.5 if m % 2 else 3.5},{m}" for u in range(3) for m in range(1, 9)]
    data = MovieLens(
        write(tmp_path / "ratings.csv", rows, "userId,movieId,rating,timestamp"), num_candidates=4, **FACTS
    )
    data.setup()
    assert named(data, held_pairs(data, "test")) == {(str(u), "7") for u in range(3)}


def test_what_is_no_movielens(tmp_path):
    with pytest.raises(
        UserError, match=r"is no file of MovieLens, it begins with 'user,item'; .* data=interactions_csv"
    ):
        MovieLens(write(tmp_path / "t.csv", ["a,b"], "user,item"), **FACTS).setup()
    with pytest.raises(UserError, match=r"has none of ratings\.csv, u\.data, ratings\.dat"):
        MovieLens(str(tmp_path), **FACTS).setup()
    (tmp_path / "u.data").write_text("1\t2\t5\t10\n1\t3\tgood\t11\n")
    with pytest.raises(UserError, match=r"u\.data line 2, column 'rating': 'good' is not a number"):
        MovieLens(str(tmp_path), **FACTS).setup()


# New users


def test_users_are_read_from_text_and_file(tmp_path):
    data = generated()
    assert list(data.new_items("user 3, user 7,")) == ["user 3", "user 7"]
    file = tmp_path / "users.txt"
    file.write_text("user 3\n\nuser 120\n")
    assert list(data.new_items(file)) == ["user 3", "user 120"]
    file.write_text("user 3\nuser 121\n")
    with pytest.raises(
        UserError, match=r"users\.txt line 2: there is no user 'user 121' in the training data; did you mean 'user "
    ):
        list(data.new_items(file))
    with pytest.raises(
        UserError, match=r"predict: there is no user 'usr 3' in the training data; did you mean 'user 3'\?"
    ):
        list(data.new_items("usr 3"))
    with pytest.raises(UserError, match=r"names no user"):
        list(data.new_items(" , "))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"not text in UTF-8"):
        list(data.new_items(file))


def test_what_prediction_needs_travels_in_the_state():
    data = generated()
    other = Interactions(num_users=120, num_items=80, impressions=60, num_candidates=20, **FACTS)
    other.load_state_dict(data.state_dict())
    assert list(other.new_items("user 5")) == ["user 5"]
    assert other.numbers(["user 5"]).tolist() == [4]
    assert (other.users, other.items) == (data.users, data.items)
    assert torch.equal(other.clicked.values, data.clicked.values)
