"""Each process holds all weights; gradients are averaged in the backward pass. Li and others, https://arxiv.org/abs/2006.15704."""

from pytorch_lightning.strategies import DDPStrategy


class DataParallel(DDPStrategy):
    """Distributed data parallel training.

    Args:
        find_unused_parameters: whether some parameters have no gradient in some steps, which costs a search each step.
        gradient_as_bucket_view: whether gradients live in the buffers that are sent, which saves a copy of them.
        static_graph: whether every step computes the same way, which lets it be sent in a better order.
    """

    def __init__(
        self, find_unused_parameters: bool = False, gradient_as_bucket_view: bool = True, static_graph: bool = False
    ):
        super().__init__(
            find_unused_parameters=find_unused_parameters,
            gradient_as_bucket_view=gradient_as_bucket_view,
            static_graph=static_graph,
        )
