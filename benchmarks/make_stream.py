"""Write a synthetic data set of a chosen size as Parquet or tar shards, with the memory of one shard.

python benchmarks/make_stream.py SIZE FOLDER [parquet|tar]     SIZE as in 500MB or 20GB

Parquet: rows of 256 numbers in float32 and a label 0 .. 9; tar: images of 3 x 32 x 32 bytes as npy, and their class.
"""

import io
import sys
import tarfile
import time
from pathlib import Path

import numpy as np

FEATURES, CLASSES = 256, 10
GROUP = 8_192  # rows of a row group, 8 MiB
GROUPS = 16  # of a file
SAMPLES = 10_000  # of a tar file
UNITS = {"MB": 10**6, "GB": 10**9}


def size_of(text: str) -> int:
    return int(float(text[:-2]) * UNITS[text[-2:].upper()])


def write_parquet(folder: Path, size: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [f"x{number}" for number in range(FEATURES)]
    weights = np.random.default_rng(0).normal(size=(FEATURES, CLASSES)).astype(np.float32)
    written = file_number = 0
    while written < size:
        schema = pa.schema([*((name, pa.float32()) for name in names), ("y", pa.int8())])
        path = folder / f"part-{file_number:05d}.parquet"
        # uncompressed and without dictionaries, as random numbers gain nothing by either
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as file:
            for group in range(GROUPS):
                rng = np.random.default_rng([file_number, group])
                x = rng.standard_normal((GROUP, FEATURES), dtype=np.float32)
                columns = np.ascontiguousarray(x.T)
                labels = (x @ weights).argmax(1).astype(np.int8)
                file.write_table(pa.table([*columns, labels], schema=schema), row_group_size=GROUP)
        written += path.stat().st_size
        file_number += 1


def write_tar(folder: Path, size: int) -> None:
    written = file_number = 0
    while written < size:
        path = folder / f"part-{file_number:05d}.tar"
        rng = np.random.default_rng(file_number)
        with tarfile.open(path, "w") as file:
            for number in range(SAMPLES):
                label = int(rng.integers(CLASSES))
                pixels = rng.integers(0, 200, (3, 32, 32), dtype=np.uint8) + np.uint8(5 * label)
                content = io.BytesIO()
                np.save(content, pixels)
                add(file, f"{number:06d}.npy", content.getvalue())
                add(file, f"{number:06d}.cls", str(label).encode())
        written += path.stat().st_size
        file_number += 1


def add(file: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    file.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    size, folder, form = size_of(sys.argv[1]), Path(sys.argv[2]), (sys.argv[3:] or ["parquet"])[0]
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    {"parquet": write_parquet, "tar": write_tar}[form](folder, size)
    total = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{total / 1e9:.2f} GB in {len(list(folder.iterdir()))} files, {time.perf_counter() - start:.0f} s: {folder}")
