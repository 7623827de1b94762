"""What a configuration may say: known keys, classes that may be built, ranges and choices by name."""

import re
from typing import Any

# Top-level keys that are settings; every other known one is a group.
SETTINGS = {"seed", "name", "stages", "objective", "output_dir", "allow", "init_from", "init_partial"} | {
    "lr_find",
    "batch_size_find",
}
REQUIRED_GROUPS = {"data", "model", "loss", "optim", "task", "trainer"}
GROUPS = REQUIRED_GROUPS | {"metrics", "scheduler", "callbacks", "logger", "augment", "init", "gradient", "study"}
LISTS = {"callbacks", "logger", "augment", "metrics"}  # groups of which several options may be chosen
FINDERS = ("batch_size_find", "lr_find")  # stages that look for a setting, in this order
STAGES = ("info", *FINDERS, "fit", "test", "study")

# Keys with underscores around them speak to Iolaus and are not arguments of the class.
OWN_KEYS = {
    "_target_",  # the class
    "_accepts_",  # facts of the data it can work with, for example {target_kind: [class]}
    "_when_",  # metrics: facts of the data without which it is left out, for example {num_classes: [2]}
    "_splits_",  # metrics: the splits it is computed on; all three without it
    "_groups_",  # optim: parameters with settings of their own, for example {no_decay: {ndim: 1, weight_decay: 0}}
    "_interval_",  # scheduler: steps once an `epoch` (without it) or once a `step`
}

# Keys of a group of parameters that choose its members and are no arguments of the optimizer.
GROUP_KEYS = ("match", "ndim", "frozen")

# Arguments that build hands over and YAML cannot.
GIVEN = {
    "task": {"model", "loss", "metrics", "optimizer", "scheduler", "gradient"},
    "optim": {"params"},
    "scheduler": {"optimizer"},
    "trainer": {"callbacks", "logger", "default_root_dir", "checkpoint_files"}
    | {f"enable_{part}" for part in ("checkpointing", "progress_bar", "model_summary")},
}


def target_of(node: Any) -> str:
    """The class that a node names; an empty text where it names none."""
    return str(node.get("_target_") or "") if isinstance(node, dict) else ""


def is_meant(node: dict[str, Any], data: dict[str, Any]) -> bool:
    """Whether the data have the facts without which a part is left out; facts that are not known yet exclude nothing."""
    wanted = node.get("_when_") or {}
    return all(data.get(fact) is None or data[fact] in values for fact, values in wanted.items())


def given(path: str) -> set[str]:
    """The arguments that build hands over to what a path names; the parts of a composed schedule get what the whole gets."""
    return GIVEN.get(re.sub(r"(\.schedulers\.\d+)+$", "", path), set())


# What a configuration may build. Each rule names classes only: no loader of pickles, no function that runs code.
_CLASS = r"[A-Z]\w*"
ALLOWED = (
    rf"iolaus(\.[a-z]\w*)+\.{_CLASS}",
    rf"torch\.nn\.{_CLASS}",
    rf"torch\.optim\.((lr_scheduler|swa_utils)\.)?{_CLASS}",
    rf"torchvision\.(models|transforms\.v2)\.{_CLASS}",
    rf"torchmetrics\.({'|'.join(('aggregation', 'classification', 'regression', 'retrieval', 'text', 'wrappers'))})\.{_CLASS}",
    r"pytorch_lightning\.Trainer",
    rf"pytorch_lightning\.(callbacks|loggers|profilers|strategies)\.{_CLASS}",
)

KNOWN_PACKAGES = {"iolaus", "torch", "torchvision", "torchmetrics", "pytorch_lightning"}

# Ranges by argument name, in components of ours and of the packages above; for a list, of each item.
RANGES = {
    "accumulate_grad_batches": "[1, inf)",
    "alpha": "(0, inf)",
    "batch_size": "[1, inf)",
    "betas": "[0, 1)",
    "beam_width": "[1, inf)",
    "channels": "[1, inf)",
    "check_val_every_n_epoch": "[1, inf)",
    "chunk_size": "[1, inf)",
    "dampening": "[0, 1]",
    "decay": "[0, 1)",
    "devices": "[1, inf)",
    "dropout": "[0, 1)",
    "eps": "(0, inf)",
    "eta_min": "[0, inf)",
    "eval_batch_size": "[1, inf)",
    "every_n_epochs": "[1, inf)",
    "every_n_minutes": "(0, inf)",
    "every_n_steps": "[1, inf)",
    "factor": "(0, inf)",
    "fold": "[0, inf)",
    "folds": "[2, inf)",
    "frame_s": "(0, inf)",
    "gamma": "(0, inf)",
    "gradient_clip_val": "(0, inf)",
    "hidden_dim": "[1, inf)",
    "hidden_dims": "[1, inf)",
    "impressions": "[1, inf)",
    "input_shape": "[1, inf)",
    "join_timeout_s": "(0, inf)",
    "kernel_size": "[1, inf)",
    "label_smoothing": "[0, 1)",
    "lanczos_steps": "[2, inf)",
    "limit_test_batches": "[0, inf)",
    "limit_train_batches": "(0, inf)",
    "limit_val_batches": "[0, inf)",
    "log_every_n_steps": "[1, inf)",
    "lr": "(0, inf)",
    "max_epochs": "[1, inf)",
    "max_size": "[1, inf)",
    "max_steps": "[1, inf)",
    "memory_gb": "(0, inf)",
    "min_delta": "[0, inf)",
    "momentum": "[0, 1)",
    "num_bands": "[1, inf)",
    "num_candidates": "[1, inf)",
    "num_classes": "[2, inf)",
    "num_directions": "[1, inf)",
    "num_items": "[2, inf)",
    "num_negatives": "[1, inf)",
    "num_nodes": "[1, inf)",
    "num_points": "[3, inf)",
    "num_probes": "[1, inf)",
    "num_samples": "[1, inf)",
    "num_steps": "[10, inf)",
    "num_tangents": "[1, inf)",
    "num_users": "[1, inf)",
    "num_workers": "[0, inf)",
    "overfit_batches": "[0, inf)",
    "padding": "[0, inf)",
    "patience": "[0, inf)",
    "probability": "[0, 1]",
    "rate_hz": "[1, inf)",
    "sample_length": "[1, inf)",
    "seconds_per_size": "(0, inf)",
    "seed": "[0, 4294967295]",
    "size": "[1, inf)",
    "smoothing": "[0, 1)",
    "start": "[0, inf)",
    "step_size": "[1, inf)",
    "strides": "[1, inf)",
    "temperature": "[0, inf)",
    "timeout_s": "(0, inf)",
    "test_fraction": "[0, 1)",
    "top_k": "[1, inf)",
    "top_p": "(0, 1]",
    "val_fraction": "[0, 1)",
    "vocab_size": "[2, inf)",
    "retries": "[0, inf)",
    "trace_samples": "[1, inf)",
    "update_bn_batches": "[0, inf)",
    "validation_grace_s": "[0, inf)",
    "weight_decay": "[0, inf)",
    "window_s": "(0, inf)",
}
# Names that mean something else in torch, torchvision and the others, as ELU's alpha and the sizes of Upsample and Resize.
OTHER_MEANINGS = {"alpha", "size", "start"}
UNLIMITED = {"max_epochs", "max_steps", "devices"}  # -1 stands for no limit

CHOICES: dict[str, tuple[object, ...]] = {
    "objective.mode": ("min", "max"),
    "model.activation_checkpointing": ("none", "full", "attention", "selective", "matmuls"),
    "scheduler._interval_": ("epoch", "step"),
    "trainer.accelerator": ("auto", "cpu", "gpu", "cuda", "mps", "tpu"),
    "trainer.precision": (
        *("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"),
        *("transformer-engine", "transformer-engine-float16", 16, 32, 64, "16", "32", "64", "bf16", None),
    ),
    "trainer.gradient_clip_algorithm": ("norm", "value", None),
    "trainer.profiler": ("simple", "advanced", "pytorch", None),
}

KINDS: dict[str, dict[object, str]] = {
    "standardize": {False: "targets as they are (data.standardize=false)", True: "standardised targets"},
    "target_kind": {
        "class": "class labels",
        "real": "real-valued targets",
        "tokens": "the tokens that follow",
        "sentence": "sentences",
        "transcript": "transcripts",
        "click": "clicks",
        "distance": "distances",
    },
    "input_kind": {
        "image": "images",
        "table": "rows of numbers",
        "tokens": "tokens",
        "sentence": "sentences",
        "audio": "sounds",
        "user_item": "users and items",
        "point_pair": "pairs of points",
    },
}


def allowed(own_packages: Any) -> re.Pattern[str]:
    """The pattern of targets that may be built: the fixed rules, and classes of the user's own packages."""
    packages = own_packages if isinstance(own_packages, list) else []
    own = [rf"{re.escape(p)}(\.\w+)*\.{_CLASS}" for p in packages if isinstance(p, str)]
    return re.compile("|".join(f"(?:{rule})" for rule in (*ALLOWED, *own)))


def within(number: float, interval: str) -> bool:
    """Whether a number lies in an interval written as in mathematics: [ ] closed, ( ) open."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = number > low if interval[0] == "(" else number >= low
    return above and (number < high if interval[-1] == ")" else number <= high)


def in_words(interval: str) -> str:
    """An interval as the end of the sentence `must be ...`."""
    low, high = (bound.strip() for bound in interval[1:-1].split(","))
    if high == "inf":
        return f"above {low}" if interval[0] == "(" else f"at least {low}"
    return f"in {interval}"
