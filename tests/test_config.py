"""Every option composes and checks; help and errors come without torch."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import CONF, ROOT, composed, options, read_yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser

from iolaus.check import check
from iolaus.compose import _named_twice, _telling, settle
from iolaus.data.sniff import sniff_target_kind
from iolaus.data.text_table import TextTable
from iolaus.defaults import find_replaced
from iolaus.errors import ConfigError
from iolaus.interpolations import slug
from iolaus.rules import GROUPS, in_words, within

REAL_LOSSES = ("mse", "mae", "huber", "smooth_l1", "mean_bias", "sum_of_squares", "half_sum_of_squares", "gaussian_nll")
# Models of other kinds of data than images and tables.
OTHERS = dict.fromkeys(["seq2seq_gru", "seq2seq_transformer"], "number_words")
OTHERS |= dict.fromkeys(["matrix_factorization", "two_towers"], "interactions")
OTHERS |= {"llama": "stdlib", "gpt2": "stdlib", "conv_gru": "morse", "points": "distances"}
KINDS_OF_TARGET = {"bpr": "interactions", "sampled_softmax": "interactions", "ctc": "morse", "stress": "distances"}
TASKS = {"language_modeling": "stdlib", "translation": "number_words", "speech": "morse", "ranking": "interactions"}
TASKS |= {"scaling": "distances"}
# Options that need more words than their name.
MORE = {
    "data=csv": ["task=classification", "data.path=.", "data.target=y"],
    **{f"data={name}": ["task=classification", "data.path=."] for name in ("npz", "hdf5")},
    "data=parquet_stream": ["task=classification", "data.path=.", "data.target=y", "data.input_kind=table"],
    "data=parquet": ["task=classification", "data.path=.", "data.target=y"],
    **{
        f"data={name}": ["data.path=."]
        for name in ("image_folder", "text_file", "tsv", "distance_matrix", "interactions_csv")
    },
    **{f"data={name}": ["data.path=."] for name in ("movielens", "speech_folder")},
    **{f"model={name}": [f"data={data}"] for name, data in OTHERS.items()},
    "optim=sparse_adam": ["model=additive", "model.sparse=true"],
    **{f"loss={name}": ["data=diabetes"] for name in REAL_LOSSES},
    "loss=poisson_nll": ["data=diabetes", "data.standardize=false"],
    **{f"loss={name}": [f"data={data}"] for name, data in KINDS_OF_TARGET.items()},
    **{f"{group}={name}": [f"data={data}"] for group in ("task", "metrics") for name, data in TASKS.items()},
    "metrics=mean_bias": ["data=diabetes"],
    "metrics=correlation": ["data=diabetes"],
    "metrics=regression": ["data=diabetes"],
    "task=regression": ["data=diabetes"],
    "trainer=deepspeed": ["~callbacks.resume_points"],
}
PACKAGES = {"logger=wandb": "wandb", "logger=mlflow": "mlflow", "logger=comet": "comet_ml"}  # of options that need one
PACKAGES |= {"trainer=ray": "ray", "trainer=deepspeed": "deepspeed"}
EVERY = [f"{g}={o}" for g in sorted(GROUPS) for o in options(g) if o != "auto" or g == "trainer"]


@pytest.mark.parametrize("choice", EVERY)
def test_every_option_composes_and_checks(choice):
    group, _, option = choice.partition("=")
    must_be_given = [k for k, v in read_yaml(CONF / group / f"{option}.yaml").items() if v == "???"]
    config = composed(choice, *MORE.get(choice, [f"{group}.{key}=." for key in must_be_given]))
    package = PACKAGES.get(choice)
    if package is not None and find_spec(package) is None:  # of those that not all have
        with pytest.raises(ConfigError, match=f"the package {package} is not installed; pip install"):
            check(config)
        return
    check(config)


@pytest.mark.parametrize(
    ("choice", "task"), [("digits", "classification"), ("diabetes", "regression"), ("line", "regression")]
)
def test_the_data_set_picks_the_task_and_the_task_loss_and_metrics(choice, task):
    config = composed(f"data={choice}")
    assert config.task.target_kind == {"classification": "class", "regression": "real"}[task]
    assert ("accuracy" in config.metrics) == (task == "classification")
    assert (
        config.loss._target_ == {"classification": "torch.nn.CrossEntropyLoss", "regression": "torch.nn.MSELoss"}[task]
    )


def test_the_command_line_wins():
    assert composed("data=diabetes", "loss=mae").loss._target_ == "torch.nn.L1Loss"
    assert composed("data=line", "objective.monitor=mae/train").objective.monitor == "mae/train"


def test_callbacks_are_keyed():
    assert "early_stopping" not in composed("~callbacks.early_stopping").get("callbacks")
    assert composed("callbacks.early_stopping.patience=5").callbacks.early_stopping.patience == 5
    assert list(composed("callbacks=[summary,progress]").callbacks) == ["summary", "progress"]
    assert set(composed("logger=[tensorboard,csv]").logger) == {"tensorboard", "csv"}


def test_options_that_share_members_are_not_named_twice():
    assert list(_named_twice(["callbacks=[default,look]", "callbacks=[checkpoint,default]", "logger=csv"])) == []
    twice = ["logger=[wandb,csv,wandb]", "model.hidden_dims=[8,8]"]
    assert list(_named_twice(twice)) == ["logger: wandb is named twice; name it once, as in logger=[wandb,csv]"]


TWICE = """# @package _global_
defaults:
  - override /data: iris
  - override /optim: sgd
  - override /callbacks: [default, ema, default]
  - override /optim: adam
"""


def test_an_experiment_names_each_option_once(command, tmp_path):
    (tmp_path / "own/experiment").mkdir(parents=True)
    file = tmp_path / "own/experiment/twice.yaml"
    file.write_text(TWICE)
    outcome = command("--config-dir", "own", "experiment=twice")
    assert outcome.code == 1
    assert outcome.text.splitlines() == [
        f"{file}: override /callbacks: default is named twice; name it once, as in override /callbacks: [default,ema]",
        f"{file}: override /optim is chosen twice, sgd and adam; choose once",
    ]


TORCH_FREE = """
import sys
sys.argv = ["train.py", *{arguments!r}]
from train import main
from iolaus.launch import launch
code = 0
try:
    launch(main)
except SystemExit as stop:
    code = stop.code or 0
heavy = {{"torch", "pytorch_lightning", "torchmetrics", "pandas", "numpy", "sklearn", "matplotlib"}} & sys.modules.keys()
print("code", code, "heavy", sorted(heavy))
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--cfg", "job"], 0),
        (["--cfg", "job", "data=iris", "model=linear"], 0),
        (["optim.lrr=1", "data=irs", "modle=mlp"], 1),
        (["optim.lr=-1", "loss=mse", "+nothing=1"], 1),
        (["data=csv", "data.path=/no/such.csv", "data.target=y"], 1),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else str(v),
)
def test_help_and_errors_come_without_torch(arguments, code):
    done = subprocess.run(
        [sys.executable, "-c", TORCH_FREE.format(arguments=arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == f"code {code} heavy []", done.stdout + done.stderr


def test_completion_of_options():
    done = subprocess.run(
        [sys.executable, "-c", TORCH_FREE.format(arguments=["-sc", "query=bash"])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"COMP_LINE": "python train.py data=di", "COMP_POINT": "23", "PATH": "/usr/bin"},
    )
    assert {"data=digits", "data=diabetes"} <= set(done.stdout.split()), done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "code 0 heavy []"


def test_all_problems_are_told_together():
    config = composed("optim.lr=-1", "data.batch_size=0", "loss=mse", "+nobody=1")
    with pytest.raises(ConfigError) as error:
        check(config)
    assert error.value.problems[0].startswith("nobody: nothing reads this setting")
    config = composed("optim.lr=-1", "data.batch_size=0", "loss=mse")
    with pytest.raises(ConfigError) as error:
        check(config)
    assert len(error.value.problems) == 3


def test_a_key_that_an_interpolation_reads_is_meant():
    check(composed("+width=32", "model.hidden_dims=[${width}]"))
    check(composed("+start=3", "seed=${start}"))


@pytest.mark.parametrize(
    ("number", "interval", "inside"),
    [
        (0, "(0, inf)", False),
        (1e-9, "(0, inf)", True),
        (1, "[0, 1)", False),
        (1, "[1, inf)", True),
        (1, "[0, 1]", True),
    ],
)
def test_intervals(number, interval, inside):
    assert within(number, interval) is inside


def test_intervals_in_words():
    assert in_words("(0, inf)") == "above 0"
    assert in_words("[1, inf)") == "at least 1"
    assert in_words("[0, 1)") == "in [0, 1)"


DANGEROUS = [
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "torch.load",
    "torch.hub.load",
    "torch.nn.Module.load_state_dict",
    "torch.nn.functional.F.eval",
    "torch.optim.Adam.__init__.__globals__",
    "torch.utils.cpp_extension.load_inline",
    "torch.serialization.SourceChangeWarning",
    "numpy.load",
    "pandas.read_pickle",
    "joblib.load",
    "sympy.sympify",
    "pytorch_lightning.LightningModule.load_from_checkpoint",
    "pytorch_lightning.trainer.trainer.os.system",
    "torchmetrics.functional.text.bert.AutoModel",
    "iolaus.cli.main",
    "iolaus.cli.Path",
    "hydra.utils.instantiate",
    "pickle.Unpickler",
    "yaml.UnsafeLoader",
]


def test_of_many_numbers_the_extremes_tell():
    words = {
        "model=mlp",
        "model=cnn",
        "seed=0",
        "seed=5",
        "seed=9",
        "a=0.5",
        "a=1",
        "a=0.7",
        "a=0.9",
        "a=nan",
        "b=1",
        "b=2",
        "b=3",
    }
    assert words - _telling(words) == {"seed=5", "a=0.7"}


@pytest.mark.parametrize(
    ("name", "folder"),
    [("digits-mlp", "digits-mlp"), ("über Nacht: 40 %/a", "über-Nacht-40-a"), ("../../x", "x"), ("..", "")],
)
def test_a_name_stays_within_its_folder(name, folder):
    assert slug(name) == folder


@pytest.mark.slow
def test_conditions_of_a_search_are_settings_like_others():
    words = "sweep=optuna", "model=mlp,linear", "model.hidden_dims=[32],[64,32]"
    condition = "hydra.sweeper.conditions={model.hidden_dims: {model: mlp}}"
    arguments = get_args_parser().parse_args(["-m", *words, condition])
    assert settle(arguments, CONF) == []
    with pytest.raises(ConfigError, match=r"Linear has no argument 'hidden_dims'"):
        settle(get_args_parser().parse_args(["-m", *words]), CONF)


@pytest.mark.parametrize("target", DANGEROUS)
def test_only_listed_classes_are_built(target):
    with pytest.raises(ConfigError, match=r"not a class that a configuration may build|there is no"):
        check(composed(f"model._target_={target}"))


def test_own_packages_are_allowed_by_name():
    with pytest.raises(ConfigError, match=r"add allow=\[my_models\]"):
        check(composed("model._target_=my_models.Net"))
    with pytest.raises(ConfigError, match=r"allow: there is no package 'my_models'"):
        check(composed("model._target_=my_models.Net", "allow=[my_models]"))


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["a", "b", "a"], "class"),
        (["0", "1", "1", "0"], "class"),
        (["1.0", "2.0", "1.0", "2.0"], "class"),
        (["0.5", "1.5", "0.5", "1.5"], "real"),
        ([str(i) for i in range(50)], "real"),
        (["1", "2", "3"], "real"),
        (["1", "", "1", "2", "2"], "class"),
    ],
)
def test_the_target_column_tells_the_task(tmp_path, cells, kind):
    file = tmp_path / "table.csv"
    file.write_text("x,y\n" + "".join(f"0,{cell}\n" for cell in cells))
    assert sniff_target_kind(TextTable(str(file)), "y") == kind


DEFAULT = "resume_points, checkpoint, early_stopping, lr_monitor, summary, progress"


@pytest.mark.parametrize(
    ("words", "lost", "advice"),
    [
        (["callbacks=look"], DEFAULT, "callbacks=[default,look]"),
        (["callbacks=[ema,look]", "callbacks.ema.start=1"], DEFAULT, "callbacks=[default,ema,look]"),
        (["callbacks=ema", "~callbacks.ema.start", "+callbacks.ema.start=1"], DEFAULT, "callbacks=[default,ema]"),
        (["logger=csv"], "tensorboard", "logger=[tensorboard,csv]"),
        (["data=diabetes", "metrics=mean_bias"], "mse, mae, r2, scatter", "metrics=[regression,mean_bias]"),
        # what is meant so
        ([], None, None),
        (["callbacks=[default,look]"], None, None),
        (["callbacks=none"], None, None),
        (["callbacks=[]", "logger=[]"], None, None),
        (["callbacks=[checkpoint,progress]"], None, None),
        (["callbacks=resume_points"], None, None),
        (["logger=[csv]"], None, None),
        (["augment=flip"], None, None),
        (["experiment=residual_spectrum"], None, None),
    ],
)
def test_a_list_that_takes_the_place_of_another_is_told(words, lost, advice):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", words, return_hydra_config=True)
        found = list(find_replaced(config.hydra, config))
    if lost is None:
        assert found == []
        return
    (line,) = found
    assert f"so the run is without {lost}; to have both write {advice}" in line
    with initialize_config_dir(str(CONF), version_base="1.3"):  # which is right as it stands
        kept = compose("config", [w for w in words if "." not in w and w[:4] != advice[:4]] + [advice])
    assert set(lost.split(", ")) <= kept[advice.partition("=")[0]].keys()
