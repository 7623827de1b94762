"""What our Trainer adds: compilation in place with a fallback, layout, precision of products."""

import pytest
import torch
from conftest import composed

from iolaus.build import build
from iolaus.preflight import preflight


def fit(tmp_path, *overrides):
    config = composed("data=iris", "trainer.max_epochs=2", "callbacks=[]", "logger=[]", *overrides)
    config.output_dir = str(tmp_path)
    run = build(config)
    preflight(run)
    run.trainer.fit(run.task, datamodule=run.data)
    return run


def test_compiled_models_keep_their_names_and_bits(tmp_path, monkeypatch):
    compiled, real = [], torch.compile

    def eager(function, mode=None, **options):
        compiled.append(mode)
        return real(function, backend="eager")  # the compiler's front alone; its code generators take minutes

    plain = fit(tmp_path / "a")
    monkeypatch.setattr(torch, "compile", eager)
    other = fit(tmp_path / "b", "trainer.compile=true")
    assert compiled == ["default"]
    assert other.task.state_dict().keys() == plain.task.state_dict().keys()
    for name, value in plain.task.state_dict().items():
        assert torch.equal(other.task.state_dict()[name], value), name


def test_without_a_compiler_the_model_runs_as_it_is(tmp_path, monkeypatch, caplog):
    def broken(function, **options):
        def call(*arguments):
            raise RuntimeError("no C++ compiler")

        return call

    plain = fit(tmp_path / "a")
    monkeypatch.setattr(torch, "compile", broken)
    other = fit(tmp_path / "b", "trainer.compile=max-autotune-no-cudagraphs")
    assert "trainer.compile: the model runs uncompiled, the compiler failed: no C++ compiler" in caplog.text
    for name, value in plain.task.state_dict().items():
        assert torch.equal(other.task.state_dict()[name], value), name


@pytest.mark.slow
def test_the_real_compiler(command):
    outcome = command("trainer.compile=true", "trainer.max_epochs=10")
    assert outcome.code == 0, outcome.text
    assert outcome.results["metrics"]["best"]["accuracy/val"] > 0.9


def test_layout_and_precision(tmp_path):
    before = torch.get_float32_matmul_precision()
    try:
        config = composed("model=cnn", "trainer.channels_last=true", "trainer.matmul_precision=high", "callbacks=[]")
        config.output_dir = str(tmp_path)
        run = build(config)
        preflight(run)
        assert run.task.model.conv2.weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_preflight_leaves_the_random_state_and_the_weights(tmp_path):
    config = composed("model.dropout=0.5")
    config.output_dir = str(tmp_path)
    run = build(config)
    weights = {k: v.clone() for k, v in run.task.state_dict().items()}
    state = torch.get_rng_state()
    preflight(run)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(run.task.state_dict()[k], v) for k, v in weights.items())
    assert all(p.grad is None for p in run.task.parameters())
