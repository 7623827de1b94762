"""One line an epoch where there is no terminal."""

import re

import pytest


def test_lines_of_epochs(command):
    text = command("data=iris", "trainer.max_epochs=3").text
    lines = re.findall(r"^epoch (\d)/3  loss/train [\d.e-]+  loss/val [\d.e-]+  accuracy/val [\d.]+$", text, re.M)
    assert lines == ["1", "2", "3"]


@pytest.mark.slow
def test_without_it_nothing_is_told(command):
    assert "epoch 1/" not in command("data=iris", "trainer.max_epochs=3", "callbacks=none").text
