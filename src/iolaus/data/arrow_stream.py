"""What streams of Arrow tables have in common: columns, images, and what new files must be like. https://arrow.apache.org/docs/python/data.html."""

from abc import ABC
from collections.abc import Sequence
from typing import Any

from iolaus.data.arrow_rows import ArrowRows
from iolaus.data.picture import ImageDecoder
from iolaus.data.streaming import StreamedData


class ArrowStream(StreamedData, ABC):
    """Rows of tables with a column for the target. A subclass reads them, and settles `columns` by the first file.

    Args:
        path: a file, a folder of them, one with folders train, val, test, or a pattern.
        target: name of the column to predict.
        columns: names of the columns to predict it from; None: all others.
        drop: names of columns to leave out.
        size: height and width that images are resized to; None: they have one size.
        channels: 1 for grey, 3 for colour; None: as the images have.
        value_range: what is black and white in images of more than 8 bits; see ImageDecoder.
        background: grey level behind transparent pixels, from 0 to 255.
        num_targets: of a column of lists; None: the file says.
        stream: the settings of StreamedData.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        target: str | int,
        columns: Sequence[str | int] | None = None,
        drop: Sequence[str | int] = (),
        size: Sequence[int] | None = None,
        channels: int | None = None,
        value_range: Sequence[float] | None = None,
        background: int = 255,
        num_targets: int | None = None,
        **stream: Any,
    ):
        super().__init__(path, num_targets=num_targets or 1, **stream)
        self.target = str(target)  # names such as 3 arrive as numbers
        self.columns = [str(name) for name in columns] if columns is not None else None
        self.drop = [str(name) for name in drop]
        self.decoder: ImageDecoder = ImageDecoder(size, channels, value_range, background)

    def rows_to_tensors(self, target: str | None) -> ArrowRows:
        """What makes inputs, and targets of a column, of rows."""
        labels = self.labels if target is not None else None
        kinds = self.input_kind, self.item_shape, self.target_kind
        return ArrowRows(self.columns or [], target, *kinds, labels, self.decoder, self.transform)

    def state_dict(self) -> dict[str, Any]:
        shape = list(self.item_shape) if self.item_shape is not None else None
        return super().state_dict() | {"columns": self.columns, "input_shape": shape}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.columns = state_dict["columns"]
        self.item_shape = tuple(state_dict["input_shape"]) if state_dict["input_shape"] is not None else None
