"""Wrong inputs: each ends with exit code 1 and a message of at most eight lines that names the setting."""

import zipfile

import pytest

GOOD_ROWS = [
    f"{i % 7}.5,{(i * 3) % 5},{'red' if i % 2 else 'blue'},{i * 0.25},{'yes' if i % 3 else 'no'}" for i in range(60)
]
HEADER = "a,b,colour,amount,label"


@pytest.fixture(autouse=True)
def files(tmp_path):
    """The files that the commands below name, in the folder they run in."""

    def table(name, rows, header=HEADER):
        (tmp_path / name).write_text("\n".join([header, *rows]) + "\n")

    table("good.csv", GOOD_ROWS)
    table("only_header.csv", [])
    table("gap.csv", [*GOOD_ROWS[:20], "1.5,,red,0.5,yes", *GOOD_ROWS[20:]])
    table("nan.csv", [*GOOD_ROWS[:20], "1.5,nan,red,0.5,yes", *GOOD_ROWS[20:]])
    table("inf.csv", [*GOOD_ROWS[:20], "inf,1,red,0.5,yes", *GOOD_ROWS[20:]])
    table("text.csv", [*GOOD_ROWS[:20], "abc,1,red,0.5,yes", *GOOD_ROWS[20:]])
    table("ragged.csv", [*GOOD_ROWS[:20], "1,2,3,4,5,6,7", *GOOD_ROWS[20:]])
    table("names.csv", [f"{row},name{i}" for i, row in enumerate(GOOD_ROWS)], HEADER + ",who")
    table("one_class.csv", [row.replace("no", "yes") for row in GOOD_ROWS])
    table("new_label.csv", [*GOOD_ROWS[:5], "1,1,red,0.5,maybe"])
    table("twice.csv", ["1,2,3"] * 20, "a,a,y")
    table("empty_column.csv", [f"{i},,{i % 2}" for i in range(40)], "a,b,label")
    table("huge.csv", [*GOOD_ROWS[:20], "1e300,1,red,0.5,yes", *GOOD_ROWS[20:]])
    table("far.csv", [f"{i},{1.6e9 + i}" for i in range(60)], "a,y")
    (tmp_path / "semicolons.csv").write_text("a;label\n" + "1;yes\n2;no\n" * 20)
    table("other_columns.csv", ["1,2"], "a,b")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with zipfile.ZipFile(tmp_path / "sheet.csv", "w") as sheet:
        sheet.writestr("xl/workbook.xml", "")
    (tmp_path / "of_mine").mkdir()
    (tmp_path / "of_mine" / "report.md").write_text("mine")
    (tmp_path / "a_file").write_text("")
    (tmp_path / "no_classes").mkdir()
    (tmp_path / "bad_images" / "cat").mkdir(parents=True)
    (tmp_path / "bad_images" / "dog").mkdir()
    for i in range(5):
        (tmp_path / "bad_images" / "cat" / f"{i}.png").write_bytes(b"this is no image")
        (tmp_path / "bad_images" / "dog" / f"{i}.png").write_bytes(b"this is no image")
    (tmp_path / "empty_class" / "cat").mkdir(parents=True)
    (tmp_path / "empty_class" / "dog").mkdir()


CSV = "data=csv data.target=label "
CASES = [
    # typos
    ("data=irs", "data=irs", "did you mean 'iris'"),
    ("modle=mlp", "modle=mlp", "did you mean model=mlp?"),
    ("model=mpl", "model=mpl", "did you mean 'mlp'"),
    ("lr=0.1", "no setting or group 'lr'", "did you mean optim.lr=0.1?"),
    ("data=irs loss=mse", "data=irs", "did you mean 'iris'"),
    ("--epochs 5 data=iris", "--epochs 5: there is no such flag", "did you mean trainer.max_epochs=5 or"),
    ("optim.lrr=1", "optim.lrr", "torch.optim.Adam has no argument 'lrr'; did you mean 'lr'"),
    ("+optim.lrr=1", "optim.lrr", "did you mean 'lr'"),
    ("trainer.max_epoch=3", "trainer.max_epoch", "did you mean 'max_epochs'"),
    ("callbacks.early_stoping.patience=3", "early_stoping", "did you mean 'early_stopping'"),
    ("metrics.acuracy.average=macro", "acuracy", "did you mean 'accuracy'"),
    ("+lr=1", "lr: nothing reads this setting", "did you mean 'optim.lr'"),
    ("+experimnt=foo", "experimnt", "nothing reads this setting"),
    ("experiment=foo", "experiment=foo", "there is no experiment 'foo'"),
    ("~callbacks.foo", "callbacks.foo", ""),
    ("callbacks=[default,swa,ema]", "callbacks", "swa and ema each test and keep weights that they average"),
    ("logger=[csv,csv]", "logger: csv is named twice", "name it once, as in logger=[csv]"),
    ("callbacks=[default,look,default]", "callbacks: default is named twice", "as in callbacks=[default,look]"),
    ("init_from=", "init_from", "names nothing; give a run's folder or a checkpoint"),
    ("model.activation=Relu", "model", "activation must be a class of torch.nn"),
    ("model._target_=iolaus.model.mlp.MPL", "model._target_", "did you mean 'MLP'"),
    ("callbacks=null", "callbacks=null", "callbacks=[]"),
    ("model=null", "model", ""),
    ("data.batch_size", "data.batch_size", "KEY=VALUE"),
    ("data = iris", "data: not understood", "without spaces around ="),
    ("data=iris.yaml", "data=iris.yaml", "without the ending of its file: data=iris"),
    ("optim.lr=0,1", "optim.lr=0,1", "optim.lr=[0,1], and a fraction 0.1"),
    ("optim.lr=choice(0,1)", "optim.lr", "several values are a sweep; add -m"),
    ("sweep=optuna", "sweep=optuna", "is several runs; add -m"),
    ("optim=[adam,sgd]", "optim: takes one option", "-m optim=adam,sgd"),
    ("objective={foo:1}", "objective: its keys are fixed", "write +objective={foo:1}"),
    ("name=", "name", "must be what the run is called"),
    ("model.hidden_dims=[1,", "model.hidden_dims", "not understood"),
    # parts of other kinds of work
    (
        "data=stdlib model=mlp",
        "model=mlp with data=stdlib",
        "it wants images or rows of numbers, and the data have tokens",
    ),
    ("model=points", "model=points with data=digits", "it wants pairs of points, and the data have images"),
    ("loss=ctc", "loss=ctc with data=digits", "it wants transcripts, and the data have class labels"),
    ("data=number_words metrics=ranking", "with data=number_words", "it wants clicks, and the data have sentences"),
    ("data=stdlib task.temperature=-1", "task.temperature", "at least 0"),
    ("data=stdlib augment=[flip]", "with data=stdlib", "it wants images"),
    # types
    ("optim.lr=fast", "optim.lr", "must be a number; received 'fast'"),
    ("model.hidden_dims=abc", "model.hidden_dims", "must be a list of whole numbers"),
    ("model.hidden_dims=[16.5]", "model.hidden_dims", "must be a list of whole numbers"),
    ("trainer.max_epochs=ten", "trainer.max_epochs", "must be a whole number or null"),
    ("seed=abc", "seed", "whole number"),
    ("data.standardize=maybe", "data.standardize", "true or false"),
    ("optim.betas=0.9", "optim.betas", "a list of 2 numbers"),
    ("optim.betas=[0.9]", "optim.betas", "a list of 2 numbers"),
    ("trainer.max_time=5", "trainer.max_time", "received 5"),
    # ranges
    ("optim.lr=0", "optim.lr", "above 0"),
    ("optim.lr=-0.1", "optim.lr", "above 0"),
    ("optim.lr=nan", "optim.lr", "finite"),
    ("optim.lr=inf", "optim.lr", "finite"),
    ("optim.betas=[0.9,1.5]", "optim.betas", "in [0, 1)"),
    ("data.batch_size=0", "data.batch_size", "at least 1"),
    ("model.hidden_dims=[64,0]", "model.hidden_dims", "at least 1"),
    ("model.dropout=1.5", "model.dropout", "in [0, 1)"),
    ("seed=-1", "seed", "in [0, 4294967295]"),
    ("trainer.max_epochs=-5", "trainer.max_epochs", "at least 1"),
    ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val", "above 0"),
    ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches", "at least 1"),
    ("data.val_fraction=1.5", "data.val_fraction", "in [0, 1)"),
    # choices
    ("trainer.accelerator=gpuu", "trainer.accelerator", "did you mean 'gpu'"),
    ("trainer.precision=17", "trainer.precision", "bf16-mixed"),
    ("objective.mode=maximum", "objective.mode", "max"),
    ("stages=[fitt]", "stages", "did you mean 'fit'"),
    ("scheduler=plateau scheduler.threshold_mode=relative", "scheduler.threshold_mode", "rel or abs"),
    # combinations
    ("loss=mse", "loss=mse with data=digits", "try loss=cross_entropy"),
    ("data=diabetes loss=cross_entropy", "loss=cross_entropy with data=diabetes", "try loss=mse or loss="),
    ("data=diabetes metrics=classification", "metrics=classification with data=diabetes", "try metrics=regression"),
    ("data=diabetes task=classification", "task=classification with data=diabetes", "real-valued targets"),
    ("data=iris model=cnn", "model=cnn with data=iris", "try model=mlp or model="),
    ("objective.monitor=acuracy/val", "objective.monitor", "did you mean 'accuracy/val'"),
    ("objective.monitor=accuracy/val", "objective.mode", "mode must be max"),
    ("objective.mode=max", "objective.mode", "mode must be min"),
    ("data.val_fraction=0", "objective.monitor", "no validation split"),
    ("data=line objective.monitor=loss/val", "objective.monitor", "no validation split"),
    ("trainer.limit_val_batches=0", "objective.monitor", "limit_val_batches"),
    ("data.val_fraction=0.9 data.test_fraction=0.2", "data.val_fraction", "sum to 1.1"),
    ("callbacks.checkpoint.save_top_k=3", "callbacks.checkpoint.save_top_k", "filename"),
    ("callbacks.early_stopping.monitor=foo", "callbacks.early_stopping.monitor", "not logged"),
    ("trainer.check_val_every_n_epoch=5 trainer.max_epochs=3", "trainer.check_val_every_n_epoch", "within 3 epochs"),
    ("trainer.min_epochs=5 trainer.max_epochs=2", "trainer.min_epochs", "trainer.max_epochs=2"),
    ("trainer.num_nodes=2", "trainer.num_nodes", "MASTER_ADDR is not set"),
    ("objective=loss", "objective", "objective.monitor and objective.mode"),
    ("allow=[nothere]", "allow", "no package 'nothere'"),
    ("data=wine trainer.val_check_interval=500", "trainer.val_check_interval", "an epoch has 8"),
    # facts of the data
    ("data.num_classes=12", "data.num_classes", "10 class_names"),
    ("data.class_names=[a,b]", "data.num_classes", "2 class_names"),
    ("data.num_classes=5", "data.num_classes", "label 9"),
    ("data.input_shape=[1,8,9]", "data.input_shape", "[1, 8, 9]"),
    ("data=diabetes data.num_targets=2", "data.num_targets", "says 2"),
    ("model.output_dim=9", "model.output_dim", "10 classes"),
    ("model=cnn model.kernel_size=7", "model", "too small"),
    # tables
    ("data=csv", "data.path", "must be given"),
    (CSV + "data.path=no.csv", "data.path", "no.csv"),
    ("data=csv data.path=good.csv", "data.target", "a, b, colour, amount, label"),
    ("data=csv data.path=good.csv data.target=lable", "data.target", "did you mean 'label'"),
    (CSV + "data.path=good.csv data.columns=[a,c]", "data.columns", "no column 'c'"),
    (CSV + "data.path=good.csv data.drop=[z]", "data.drop", "no column 'z'"),
    (CSV + "data.path=good.csv data.drop=[a,b,colour,amount]", "data.columns", "no column is left"),
    (CSV + "data.path=empty.csv", "data.path", "is empty"),
    (CSV + "data.path=only_header.csv", "data.path", "no rows"),
    (CSV + "data.path=gap.csv", "data.path", "line 22, column 'b'"),
    (CSV + "data.path=nan.csv", "data.path", "line 22, column 'b'"),
    (CSV + "data.path=inf.csv", "data.path", "line 22, column 'a': 'inf'"),
    (CSV + "data.path=text.csv", "data.path", "line 22, column 'a': 'abc' is not a number"),
    (CSV + "data.path=ragged.csv", "data.path", "line 22"),
    (CSV + "data.path=names.csv", "data.path", "data.drop=[who]"),
    (CSV + "data.path=one_class.csv", "data.target", "one value alone"),
    (CSV + "data.path=good.csv data.test_path=new_label.csv", "data.target", "'maybe'"),
    (CSV + "data.path=good.csv data.test_path=other_columns.csv", "data.test_path", "no column 'colour'"),
    ("data=csv data.path=good.csv data.target=colour task=regression", "data.target", "task=classification"),
    ("data=csv data.path=good.csv data.target=amount task=classification", "data.target", "task=regression"),
    (CSV + "data.path=good.csv data.missing=skip", "data.missing", "drop"),
    (CSV + "data.path=twice.csv", "data.path", "two columns named 'a'"),
    (CSV + "data.path=empty_column.csv data.columns=[b]", "data.columns", "no column is left"),
    (CSV + "data.path=huge.csv", "data.path", "line 22, column 'a': 1e300 is too large"),
    ("data=csv data.path=far.csv data.target=y", "data.target", "subtract a constant"),
    (CSV + "data.path=semicolons.csv", "data.separator", "set data.separator=semicolon"),
    (CSV + "data.path=picture.csv", "data.path", "picture.csv is no text"),
    (CSV + "data.path=sheet.csv", "data.path", "sheet.csv is no text, by its first bytes; save the table as CSV"),
    (CSV + "data.path=good.csv data.separator=ab", "data.separator", "one character or one of tab"),
    # images
    ("data=image_folder data.path=no_classes data.size=64", "data.size", "a list of 2 whole numbers"),
    ("data=image_folder", "data.path", "must be given"),
    ("data=image_folder data.path=nowhere", "data.path", "nowhere"),
    ("data=image_folder data.path=no_classes", "data.path", "one folder for each"),
    ("data=image_folder data.path=empty_class", "data.path", "holds no image"),
    ("data=image_folder data.path=bad_images", "data.path", "0.png cannot be read"),
    ("data=image_folder data.path=bad_images data.channels=2", "data.channels", "1 (grey) or 3"),
    ("data=mnist data.download=false", "data.root", "MNIST"),
    # the machine
    ("trainer=gpu", "trainer.accelerator", "trainer=cpu"),
    ("output_dir=a_file/run", "output_dir", "a_file/run"),
    ("output_dir=", "output_dir", "must name a folder"),
    ('output_dir=a"b', "output_dir", "has quotes"),
    ("output_dir=of_mine", "output_dir", "of_mine holds report.md of something else"),
    ("resume=", "resume", "must name a run's folder"),
    # what only training shows
    ("optim=sgd optim.lr=1e30", "loss/train", "lower optim.lr"),
    # arguments that Iolaus sets, and code that must not run
    ("+trainer.logger=true", "trainer.logger", "Iolaus sets this argument"),
    ("model._target_=torch.load", "model._target_", "not a class"),
    ("+callbacks.x._target_=os.system", "callbacks.x._target_", "not a class"),
    ("+model._partial_=true", "model._partial_", "no such key"),
]


def test_the_list_is_long_enough():
    assert len(CASES) >= 25


@pytest.mark.parametrize(("arguments", "names", "says"), CASES, ids=[c[0] for c in CASES])
def test_wrong_input_is_refused_in_one_message(command, arguments, names, says):
    if arguments == "trainer=gpu":
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    outcome = command(*arguments.split())
    told = outcome.text.rpartition("trainable)\n")[2]  # what follows the table of the model
    lines = [line for line in told.splitlines() if line.strip() and not line.startswith("epoch ")]
    assert outcome.code == 1, outcome.text
    assert names in outcome.text
    assert says in outcome.text
    assert len(lines) <= 8, outcome.text
    assert "Traceback" not in outcome.text


def test_a_task_that_the_file_would_tell_is_not_asked_for(command):
    outcome = command("data=csv", "data.path=good.csv", "data.target=label", "data.nosuch=1")
    assert outcome.code == 1
    assert "no argument 'nosuch'" in outcome.text
    assert "task" not in outcome.text


def test_a_wrong_option_is_named_alone(command):
    """What follows from the default in its place is no mistake of the user's; other mistakes are."""
    assert command("data=irs", "loss=mse", "data.size=3").text.startswith("data=irs: there is no data 'irs'")
    lines = command("data=irs", "loss=mse", "data.size=3", "model=mpl", "lr=1").text.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["data=irs", "model=mpl", "lr=1"]


def test_a_refused_configuration_leaves_no_folder(command, tmp_path):
    before = set(tmp_path.iterdir())
    assert command("optim.lr=-1").code == 1
    assert set(tmp_path.iterdir()) == before


def test_a_failed_run_says_so_in_its_results(command):
    outcome = command("optim=sgd", "optim.lr=1e30")
    assert outcome.results["status"] == "failed"
    assert "lower optim.lr" in outcome.results["error"]


@pytest.mark.slow
def test_what_is_not_wrong_but_told(command, tmp_path):
    """A batch that holds all rows, and a test loss that extreme values make infinite."""
    assert "so an epoch is one step" in command("data=wine", "data.batch_size=500", "trainer.max_epochs=1").text
    rows = "".join(f"{i / 90},{i % 7},{i / 30}\n" for i in range(90))
    (tmp_path / "big.csv").write_text(f"a,b,y\n{rows}")
    (tmp_path / "big_test.csv").write_text("a,b,y\n" + rows.replace("\n", "e30\n", 1).replace(",0,", ",1e30,", 1))
    arguments = (
        "data=csv",
        "data.path=big.csv",
        "data.test_path=big_test.csv",
        "data.target=y",
        "trainer.max_epochs=2",
    )
    assert "loss/test is not defined (inf; null in JSON): look for extreme values" in command(*arguments).text


def test_verbose_shows_the_traceback(command):
    outcome = command("data.num_classes=5", "-v")
    assert outcome.code == 1
    assert "Traceback" in outcome.text


def test_a_run_is_not_written_over(command):
    assert command("trainer.max_epochs=1", "output_dir=here").code == 0
    outcome = command("trainer.max_epochs=1", "output_dir=here")
    assert outcome.code == 1
    assert "holds a run already" in outcome.text


def test_a_sweep_is_checked_before_its_first_job(command, tmp_path):
    outcome = command("-m", "optim.lr=0.1,-1", "trainer.max_epochs=1")
    assert outcome.code == 1
    assert "optim.lr: must be above 0; received -1" in outcome.text
    assert not (tmp_path / "outputs").exists()
