"""Signals of a `datasets` table at the speed of memory: int16 straight from the memory-mapped Arrow file.

The formatted reads of `datasets` copy and turn int16 into int64; on PTB-XL they deliver a few thousand records per
second, this view more than a hundred thousand (`examples/benchmark_reading.py`).
"""

from collections.abc import Sequence

import datasets
import numpy as np
import torch


class SignalView(torch.utils.data.Dataset):
    """Read-only view of the `Array2D` signal column of a `datasets.Dataset`, beside its reports.

    Nothing is copied when the view is made; pages are read from disk when they are first used. Selected, shuffled,
    filtered and concatenated datasets work. A view travels to the workers of a `DataLoader` as its dataset.

    Args:
        dataset (`datasets.Dataset`): A table with an `Array2D` column, such as a split of [`PtbXl`].
        signal_column (`str`, defaults to `"signal"`): The `Array2D` column.
        report_column (`str`, *optional*, defaults to `"report"`): The text column; `None` when there is none.

    Attributes:
        shape (`tuple[int, int]`): Leads and samples of every record.
        dtype (`np.dtype`): The type of the samples, int16 for the builders of this package.
        reports (`list[str]`): The texts, `""` where the table has none.

    Example:

    >>> columns = {"signal": datasets.Array2D((12, 4), "int16"), "report": datasets.Value("string")}
    >>> rows = {"signal": [np.full((12, 4), i, np.int16) for i in range(3)], "report": ["a", "b", "c"]}
    >>> view = SignalView(datasets.Dataset.from_dict(rows, datasets.Features(columns)))
    >>> signal, report = view[1]
    >>> signal.shape, signal.dtype.name, report
    ((12, 4), 'int16', 'b')
    >>> view.signals([2, 0])[:, 0, 0].tolist()
    [2, 0]
    """

    def __init__(
        self, dataset: datasets.Dataset, signal_column: str = "signal", report_column: str | None = "report"
    ) -> None:
        if not isinstance(dataset, datasets.Dataset):
            raise TypeError(
                f"Expected one split of a dataset (datasets.Dataset), got {type(dataset).__name__}. Choose a split, "
                'such as dataset["train"]; a streaming dataset has no table to view.'
            )
        for column in filter(None, (signal_column, report_column)):
            if column not in dataset.column_names:
                raise ValueError(f"Expected a column {column!r}, got {', '.join(dataset.column_names)}.")
        feature = dataset.features[signal_column]
        if not isinstance(feature, datasets.Array2D):
            raise ValueError(f"Expected an Array2D column {signal_column!r}, got {feature}. Cast it with cast_column.")
        self._arguments = (dataset, signal_column, report_column)
        self.shape, self.dtype = tuple(feature.shape), np.dtype(feature.dtype)
        self._chunks = [
            as_numpy(chunk, self.shape, signal_column)
            for chunk in dataset.data.column(signal_column).chunks
            if len(chunk) > 0
        ]
        ends = np.cumsum([len(chunk) for chunk in self._chunks], dtype=np.int64)
        table_rows = np.arange(len(dataset)) if dataset._indices is None else dataset._indices.column(0).to_numpy()
        # Where each row stands: the number of its chunk, and its place within the chunk.
        self._chunk = np.searchsorted(ends, table_rows, side="right")
        self._place = table_rows.astype(np.int64) - np.concatenate([[0], ends])[self._chunk]
        texts = [""] * len(dataset) if report_column is None else dataset.with_format(None)[report_column]
        self.reports = [text or "" for text in texts]

    def __len__(self) -> int:
        return len(self._chunk)

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        """Return the signal of one record (a read-only array of `shape`, not a copy) and its report."""
        return self._chunks[self._chunk[index]][self._place[index]], self.reports[index]

    def signals(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the signals of several records, copied into one new array.

        Args:
            indices (sequence of `int`): Row numbers, in any order; negative ones count from the end.

        Returns:
            `np.ndarray`: `dtype` of shape (number of indices, leads, samples).
        """
        indices = np.asarray(indices, dtype=np.int64)
        out = np.empty((len(indices), *self.shape), dtype=self.dtype)
        for row, chunk, place in zip(out, self._chunk[indices], self._place[indices]):
            row[...] = self._chunks[chunk][place]
        return out

    def __reduce__(self) -> tuple:
        # The dataset pickles as the path of its file; the arrays would pickle as gigabytes.
        return type(self), self._arguments


def as_numpy(chunk, shape: tuple[int, int], column: str) -> np.ndarray:
    """Return one Arrow chunk of an Array2D column as (rows, *shape), without a copy."""
    flat = chunk.storage.flatten().flatten()
    if chunk.null_count or len(flat) != len(chunk) * shape[0] * shape[1]:
        raise ValueError(
            f"Expected {len(chunk)} signals of shape {shape} in column {column!r}, got {chunk.null_count} nulls and "
            f"{len(flat)} values. Drop rows without a signal first: dataset.filter(...)."
        )
    return flat.to_numpy(zero_copy_only=True).reshape(len(chunk), *shape)


__all__ = ["SignalView"]
