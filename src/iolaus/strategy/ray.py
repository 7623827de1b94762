"""Data parallel training by the workers of a Ray cluster. https://docs.ray.io/en/latest/train/train.html."""

from iolaus.strategy.ddp import DataParallel


class RayDataParallel(DataParallel):
    """Distributed data parallel training in processes that Ray Train starts, on this machine or on a cluster.

    Args:
        find_unused_parameters: whether some parameters have no gradient in some steps, which costs a search each step.
        gradient_as_bucket_view: whether gradients live in the buffers that are sent, which saves a copy of them.
        static_graph: whether every step computes the same way, which lets it be sent in a better order.
        cpus_per_worker: processors that Ray sets aside for each process.
    """

    package = "ray"
    extra = "ray"

    def __init__(
        self,
        find_unused_parameters: bool = False,
        gradient_as_bucket_view: bool = True,
        static_graph: bool = False,
        cpus_per_worker: int = 1,
    ):
        super().__init__(find_unused_parameters, gradient_as_bucket_view, static_graph)
