"""On a GPU: a training epoch against a tight hand-written loop, as it is, recorded as CUDA graphs and compiled; images of CIFAR-10's shape.

The tight loop takes its steps kernel by kernel in each pair, with the data on the GPU.

    python benchmarks/gpu.py [epochs] [words of a case's name]
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
    "experiment=cifar10",
    "data.input_shape=[3,32,32]",
    "trainer.precision=bf16-mixed",
    "trainer.channels_last=true",
)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)


def mlp_64(name: str, epochs: int, settings: list[str]) -> None:
    against_tight_loop(name, mlp(), 64, epochs, *MLP_SIZE, *settings)


def mlp_512(name: str, epochs: int, settings: list[str]) -> None:
    against_tight_loop(name, mlp(), 512, epochs, *MLP_SIZE, *settings)


def cnn(name: str, epochs: int, settings: list[str]) -> None:
    against_tight_loop(name, CNN(MNIST_SHAPE, 10), 64, epochs, "model=cnn", *settings)


def cifar(name: str, epochs: int, settings: list[str]) -> None:
    """50,000 images at a published setting: flips, crops, cutout, SGD with momentum, batches of 128; in bf16."""
    model = TorchvisionModel("resnet18", CIFAR_SHAPE, 10, small_images=True)
    against_tight_loop(name, model, 128, epochs, *CIFAR, *settings, bf16=True, n=62_500, optimizer=sgd)


CASES = {
    "MLP, batch 64": mlp_64,
    "MLP, batch 512": mlp_512,
    "CNN, batch 64": cnn,
    "ResNet-18, CIFAR-10's shape": cifar,
}


def main(epochs: int, words: list[str]) -> None:
    print(machine(), torch.cuda.get_device_name())
    print("training epoch, Iolaus / tight loop")
    for case, measure in CASES.items():
        for way, settings in WAYS.items():
            name = f"{case}, {way}"
            if all(word in name for word in words):
                measure(name, epochs, settings)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10, sys.argv[2:])
