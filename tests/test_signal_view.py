"""SignalView: the rows of the table without a copy, whatever was done to the table."""

import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_merit.processing.data.signal_view import SignalView

ROWS, SHAPE = 25, (12, 30)
SIGNALS = np.random.default_rng(0).integers(-(2**15), 2**15, (ROWS, *SHAPE), dtype=np.int16)
FEATURES = datasets.Features({"signal": datasets.Array2D(SHAPE, "int16"), "report": datasets.Value("string")})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    """A memory-mapped table of 25 rows in four chunks; every seventh report is null."""
    reports = [None if row % 7 == 0 else f"report {row}" for row in range(ROWS)]
    path = tmp_path_factory.mktemp("view") / "table.arrow"
    with datasets.arrow_writer.ArrowWriter(path=str(path), features=FEATURES, writer_batch_size=8) as writer:
        for signal, report in zip(SIGNALS, reports):
            writer.write(FEATURES.encode_example({"signal": signal, "report": report}))
        writer.finalize()
    table = datasets.Dataset.from_file(str(path))
    assert table.data.column("signal").num_chunks == 4
    return table


def assert_shows(view: SignalView, rows: list[int]) -> None:
    """The view has exactly these rows of the table, by index, by batch and by report."""
    assert len(view) == len(rows)
    assert all(np.array_equal(view[i][0], SIGNALS[row]) for i, row in enumerate(rows))
    assert np.array_equal(view.signals(range(len(rows))), SIGNALS[rows])
    assert view.reports == ["" if row % 7 == 0 else f"report {row}" for row in rows]
    assert [view[i][1] for i in range(len(rows))] == view.reports


def test_whole_table(dataset: datasets.Dataset) -> None:
    view = SignalView(dataset)
    assert_shows(view, list(range(ROWS)))
    assert view.shape == SHAPE and view.dtype == np.int16
    assert np.array_equal(view[-1][0], SIGNALS[-1])
    with pytest.raises(IndexError):
        view[ROWS]


@given(st.lists(st.integers(-ROWS, ROWS - 1)))
def test_any_batch_of_indices(dataset: datasets.Dataset, indices: list[int]) -> None:
    batch = SignalView(dataset).signals(indices)
    assert batch.dtype == np.int16 and batch.flags.writeable
    assert np.array_equal(batch, SIGNALS[np.array(indices, dtype=int)])


@settings(max_examples=30)
@given(st.lists(st.integers(0, ROWS - 1), min_size=1), st.integers(0, ROWS - 1))
def test_selected_tables(dataset: datasets.Dataset, rows: list[int], start: int) -> None:
    assert_shows(SignalView(dataset.select(rows)), rows)
    assert_shows(SignalView(dataset.select(range(start, ROWS))), list(range(start, ROWS)))
    assert_shows(SignalView(dataset.select(rows).select([0])), rows[:1])


def test_shuffled_filtered_concatenated_sharded_and_formatted_tables(dataset: datasets.Dataset) -> None:
    order = [int(row) for row in np.random.default_rng(3).permutation(ROWS)]
    assert_shows(SignalView(dataset.shuffle(generator=np.random.default_rng(3))), order)
    odd = dataset.filter(lambda row, index: index % 2 == 1, with_indices=True)
    assert_shows(SignalView(odd), list(range(1, ROWS, 2)))
    joined = datasets.concatenate_datasets([dataset.select(range(20, 25)), dataset.select([3, 1])])
    assert_shows(SignalView(joined), [20, 21, 22, 23, 24, 3, 1])
    assert_shows(SignalView(dataset.shard(3, 1, contiguous=False)), list(range(1, ROWS, 3)))
    assert_shows(SignalView(dataset.with_format("torch")), list(range(ROWS)))
    assert len(SignalView(dataset.select([]))) == 0


def test_nothing_is_copied(dataset: datasets.Dataset) -> None:
    view = SignalView(dataset)
    base = view._chunks[0]
    assert not base.flags.owndata and np.shares_memory(view[2][0], base)
    with pytest.raises(ValueError, match="read-only"):
        view[2][0][0, 0] = 1
    assert len(pickle.dumps(view)) < SIGNALS.nbytes / 2
    assert_shows(pickle.loads(pickle.dumps(view)), list(range(ROWS)))


def test_data_loader_with_workers(dataset: datasets.Dataset) -> None:
    view = SignalView(dataset)

    def collate(items: list[tuple[np.ndarray, str]]) -> tuple[torch.Tensor, list[str]]:
        return torch.from_numpy(np.stack([signal for signal, _ in items])), [report for _, report in items]

    loader = torch.utils.data.DataLoader(view, batch_size=10, collate_fn=collate, num_workers=1)
    batches = list(loader)
    assert np.array_equal(torch.cat([signals for signals, _ in batches]).numpy(), SIGNALS)
    assert [report for _, reports in batches for report in reports] == view.reports


def test_table_without_reports(dataset: datasets.Dataset) -> None:
    view = SignalView(dataset.remove_columns("report"), report_column=None)
    assert view.reports == [""] * ROWS and np.array_equal(view[4][0], SIGNALS[4])


def test_refusals(dataset: datasets.Dataset, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Expected one split.*got DatasetDict"):
        SignalView(datasets.DatasetDict({"train": dataset}))
    with pytest.raises(TypeError, match="got IterableDataset"):
        SignalView(dataset.to_iterable_dataset())
    with pytest.raises(ValueError, match="Expected a column 'ecg', got signal, report"):
        SignalView(dataset, signal_column="ecg")
    with pytest.raises(ValueError, match="Expected an Array2D column 'report'"):
        SignalView(dataset, signal_column="report")
    with_null = datasets.Dataset.from_dict({"signal": [SIGNALS[0], None], "report": ["a", "b"]}, features=FEATURES)
    with pytest.raises(ValueError, match="got 1 nulls and 360 values"):
        SignalView(with_null)
