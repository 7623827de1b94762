"""Train an epoch on data larger than memory: peak memory of all processes, rows a second, and those of reading alone.

python benchmarks/stream.py FOLDER [parquet_stream|webdataset] [KEY=VALUE ...]     FOLDER written by make_stream.py

The training runs as `python train.py`, and its memory is looked at ten times a second: anonymous memory of the process and of those that it
has started, without the pages of files, which the system takes back when it needs them. With a limit on memory, as in
`systemd-run --scope -p MemoryMax=1G`, the same command shows that the limit is enough.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))


def memory(pid: int) -> tuple[int, int]:
    """Anonymous and resident bytes of a process and of those that it has started, each counted once where they share it."""
    pids, anonymous, proportional = [pid], 0, 0
    for one in pids:
        try:
            pids += [int(child) for child in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
            rollup = Path(f"/proc/{one}/smaps_rollup").read_text()
        except (OSError, ValueError):  # it has ended
            continue
        found = dict(re.findall(r"^(Pss|Pss_Anon|Pss_Shmem):\s+(\d+)", rollup, re.MULTILINE))
        anonymous += 1024 * (int(found.get("Pss_Anon", 0)) + int(found.get("Pss_Shmem", 0)))
        proportional += 1024 * int(found.get("Pss", 0))
    return anonymous, proportional


def trained(words: list[str]) -> tuple[float, int, int]:
    """Seconds of a command, and its peaks of memory."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    peaks = (0, 0)
    while process.poll() is None:
        peaks = tuple(max(pair) for pair in zip(peaks, memory(process.pid), strict=True))
        time.sleep(0.1)
    assert process.stdout is not None
    text = process.stdout.read().decode()
    assert process.returncode == 0, text
    return time.perf_counter() - start, *peaks


def read_alone(option: str, folder: str, batch_size: int) -> tuple[float, int]:
    """Seconds of an epoch of which nothing is made, in this process; and the rows."""
    from iolaus.data.parquet_stream import ParquetStream
    from iolaus.data.webdataset import WebDataset

    facts = {"input_shape": None, "target_kind": "class", "val_fraction": 0.01, "test_fraction": 0.0, "num_workers": 0}
    facts |= {"num_classes": 10, "batch_size": batch_size}
    if option == "parquet_stream":
        data = ParquetStream(folder, "y", input_kind="table", **facts)
    else:
        data = WebDataset(folder, input_kind="image", **facts)
    data.setup()
    start, rows = time.perf_counter(), 0
    for inputs, _ in data.train_dataloader():
        rows += len(inputs)
    return time.perf_counter() - start, rows


if __name__ == "__main__":
    folder, option, *more = [*sys.argv[1:2], *(sys.argv[2:] or ["parquet_stream"])]
    batch_size = 256
    size = sum(os.path.getsize(file) for file in Path(folder).iterdir())
    words = [f"data={option}", f"data.path={folder}", "data.num_classes=10", f"data.batch_size={batch_size}"]
    words += ["data.target=y", "task=classification"] if option == "parquet_stream" else []
    words += [
        "data.val_fraction=0.01",
        "data.test_fraction=0",
        "stages=[fit]",
        "logger=[]",
        "trainer.max_epochs=1",
        *more,
    ]
    with tempfile.TemporaryDirectory() as place:
        empty, base, _ = trained([*words, "trainer.limit_train_batches=1", f"output_dir={place}/empty"])
        seconds, peak, resident = trained([*words, f"output_dir={place}/run"])
    alone, rows = read_alone(option, folder, batch_size)
    print(f"{option}: {size / 1e9:.2f} GB, {rows:,} rows")
    print(f"peak of memory, all processes: {peak / 1e6:,.0f} MB ({resident / 1e6:,.0f} MB with pages of files)")
    print(f"the data are {size / peak:.1f} times as large")
    print(f"of these with one batch trained: {base / 1e6:,.0f} MB")
    print(f"rows a second: {rows / (seconds - empty):,.0f} trained, {rows / alone:,.0f} read alone")
