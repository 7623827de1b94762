"""Folders of sweeps as the launcher and the runs leave them, written by hand."""

import json

import yaml

CONFIG = {
    "seed": 0,
    "name": "digits-mlp",
    "stages": ["fit", "test"],
    "data": {"_target_": "D", "seed": 0, "folds": None, "fold": 0, "input_shape": [8, 8], "batch_size": 64},
    "model": {"_target_": "M", "input_shape": [8, 8], "hidden_dims": [128], "dropout": 0.0},
    "optim": {"_target_": "O", "lr": 0.001, "weight_decay": 0.0},
}
CHOICES = {"data": "digits", "model": "mlp", "optim": "adam", "callbacks": ["default"]}


def job(sweep, number, overrides, value=None, status="completed", monitor="loss/val", mode="min", **more):
    """A run's folder; its settings follow from the overrides. `status` None: no results.json; "absent": nothing at all."""
    folder = sweep / f"{number}_job"
    entry = {"number": number, "overrides": list(overrides), "folder": folder.name}
    if status == "absent":
        return entry
    folder.mkdir(parents=True)
    config, choices = json.loads(json.dumps(CONFIG)), dict(CHOICES)
    for override in overrides:
        key, _, text = override.partition("=")
        *path, last = key.split(".")
        node = config
        for part in path:
            node = node.setdefault(part, {})
        if not path and key in choices:
            choices[key] = text
        else:
            try:
                node[last] = json.loads(text)
            except ValueError:
                node[last] = text
    config["data"]["seed"] = config["seed"]
    config["output_dir"] = str(folder)
    config["callbacks"] = {"checkpoint": {"dirpath": f"{folder}/checkpoints"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if status is not None:
        best = {monitor: value, "accuracy/val": 0.9} if value is not None else {}
        results = {
            "status": status,
            "command": "python train.py -m optim.lr=1,2",
            "overrides": list(overrides),
            "choices": choices,
            "metrics": {"best": best, "last": best, "test": {} if value is None else {"accuracy/test": 1 - value / 10}},
            "objective": {"monitor": monitor, "mode": mode, "value": value},
            "best_epoch": 3 if value is not None else None,
            "seconds": {"total": 1.5, "fit": 1.0},
            "error": None,
        }
        (folder / "results.json").write_text(json.dumps(results | more))
    return entry


def sweep_file(sweep, jobs, command="python train.py -m optim.lr=1,2"):
    """sweep.yaml as the launcher writes it."""
    _, script, *words = command.split()
    plan = {"words": words, "script": f"/somewhere/{script}", "directory": "/somewhere", "trials": None, "jobs": jobs}
    text = yaml.safe_dump(plan)
    (sweep / "sweep.yaml").write_text(text)
