"""On a GPU: a training epoch against a tight hand-written loop, as it is, recorded as CUDA graphs and compiled; images of CIFAR-10's shape.

The tight loop takes its steps kernel by kernel in each pair, with the data on the GPU.

    python benchmarks/gpu.py [epochs] [ways]
"""

import sys

from step import MLP_SIZE, against_tight_loop, mlp  # first: it sets threads and imports lean
from timing import MNIST_SHAPE, machine

import torch  # isort: skip

from iolaus.model.cnn import CNN
from iolaus.model.torchvision_model import TorchvisionModel

WAYS = {
    "as it is": [],
    "cuda_graphs": ["trainer.cuda_graphs=true"],
    "compile": ["trainer.compile=true"],
    "compile, cuda_graphs": ["trainer.compile=true", "trainer.cuda_graphs=true"],
}
CIFAR_SHAPE = (3, 32, 32)
CIFAR = (
    "model=resnet18",
    "model.small_images=true",
    "data.input_shape=[3,32,32]",
    "augment=[flip,crop,cutout]",
    "trainer.precision=bf16-mixed",
    "trainer.channels_last=true",
)


def main(epochs: int, ways: list[str]) -> None:
    print(machine(), torch.cuda.get_device_name())
    print("training epoch, Iolaus / tight loop")
    for way in ways:
        settings = WAYS[way]
        for batch_size in (64, 512):
            against_tight_loop(f"MLP, batch {batch_size}, {way}", mlp(), batch_size, epochs, *MLP_SIZE, *settings)
        against_tight_loop(f"CNN, batch 64, {way}", CNN(MNIST_SHAPE, 10), 64, epochs, "model=cnn", *settings)
    for way in ways:
        model = TorchvisionModel("resnet18", CIFAR_SHAPE, 10, small_images=True)
        name = f"ResNet-18, CIFAR-10's shape, {way}"
        against_tight_loop(name, model, 512, max(epochs // 2, 2), *CIFAR, *WAYS[way], bf16=True, n=62_500)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10, sys.argv[2:] or list(WAYS))
