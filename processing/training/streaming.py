"""Pre-training on more pairs than fit on the disk: Parquet files, local or remote, read as a stream.

The order of a stream follows from seed and epoch alone, so that where it stands is two numbers, and a resumed run goes
on with exactly the batches that would have come without reading the files before them. A local data set needs no
stream: the tables of `datasets` are mapped into memory, whatever their size.
"""

from collections.abc import Iterator
from itertools import chain

import fsspec
import numpy as np
import pyarrow.parquet as pq
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from datasets import Array2D, load_dataset

from ..data.signal_view import as_numpy
from .pairs import PairCollator, condition_signals, has_report

COLUMNS = ["signal", "report"]


class ParquetFiles:
    """The Parquet files of one split, each with columns `signal`, (12, samples) int16 in µV, and `report`.

    Args:
        source (`str`): A folder, or a URL that fsspec knows (`hf://datasets/NAME`, `s3://…`), whose files are named
            after their splits: `train-00000.parquet`, `data/validation-00000-of-00001.parquet`.
        split (`str`): `"train"` or `"validation"`.
        reported (`bool`): Whether rows without a report are left out.

    Attributes:
        urls (`list[str]`), num_rows (`list[int]`): The files and their rows, less those left out.
        total (`int`): All rows.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file lacks a column.
    """

    def __init__(self, source: str, split: str, reported: bool = False):
        self.fs, path = fsspec.url_to_fs(source)
        paths = sorted(self.fs.glob(f"{path.rstrip('/')}/**/{split}*.parquet"))
        if not paths:
            raise FileNotFoundError(
                f"Expected Parquet files of the {split} split in {source}, such as {split}-00000.parquet, got none."
            )
        self.paths, self.num_rows, self.sizes = paths, [], []
        for name in paths:
            with self.fs.open(name, "rb") as file:
                parquet = pq.ParquetFile(file)
                if missing := [column for column in COLUMNS if column not in parquet.schema_arrow.names]:
                    raise ValueError(f"Expected columns {', '.join(COLUMNS)} in {name}, missing {', '.join(missing)}.")
                self.num_rows.append(parquet.metadata.num_rows)
            self.sizes.append(self.fs.size(name))
        self.urls, self.total = [self.fs.unstrip_protocol(name) for name in paths], sum(self.num_rows)
        self._columns: dict[str, list[str]] = {}
        if reported:
            kept = [[report for report in self._read(path, "report") if has_report(report)] for path in paths]
            self.num_rows, self._columns["report"] = list(map(len, kept)), list(chain(*kept))

    def __len__(self) -> int:
        return sum(self.num_rows)

    def __getitem__(self, column: str) -> list[str]:
        """Return the column of the reports, read once; it fits into memory where the signals do not."""
        if column not in self._columns:
            self._columns[column] = [value for path in self.paths for value in self._read(path, column)]
        return self._columns[column]

    def _read(self, path: str, column: str) -> list[str]:
        with self.fs.open(path, "rb") as file:
            return pq.ParquetFile(file, pre_buffer=False).read([column], use_threads=False)[column].to_pylist()


class EcgReportStream:
    """Batches of model inputs out of Parquet files: what a `DataLoader` over `EcgReportPairs` is to a table.

    Several processes train on different files, the same number each. Rows that do not fill a last batch are left out.

    Args:
        files (`ParquetFiles`): Of the split.
        processor ([`MeritProcessor`]): Conditions signals and tokenises reports.
        args (`argparse.Namespace`): The options of pretrain.py.
        train (`bool`): Whether to shuffle and augment. Files are shuffled, and rows within blocks of
            `args.shuffle_buffer`; the shuffle of `datasets` moves row by row, and takes several times as long.
        accelerator (`Accelerator`): Says which process this is, and where batches go.

    Raises:
        ValueError: If the processes cannot share the files out evenly, or a process has less than a batch.
    """

    def __init__(self, files: ParquetFiles, processor, args, train: bool, accelerator: Accelerator):
        self.files, self.args, self.train, self.epoch = files, args, train, 0
        self.first = self.number = 0  # the batch that the next iteration begins with, and the one that comes next
        self.extractor, self.collator = processor.feature_extractor, PairCollator(processor, args, train)
        self.device = accelerator.device
        self.rank, self.processes = accelerator.process_index, accelerator.num_processes
        self.even = len(files.urls) % self.processes == 0
        if train and not self.even:
            raise ValueError(
                f"Expected a number of files that {self.processes} processes share out evenly, got {len(files.urls)}. "
                "Write them anew, or use another number of processes."
            )
        # Files change hands from epoch to epoch, so the smallest says what every process has. Where there are too few
        # of them to validate on, all processes read all files, and take the rows in turn.
        share = len(files.urls) // self.processes * min(files.num_rows)
        self.rows = share if self.even and self.processes > 1 else len(files) // self.processes
        self.batch_size = min(args.batch_size, self.rows)
        if self.batch_size < 2 or not len(self):
            raise ValueError(
                f"Expected pairs for {args.gradient_accumulation_steps} batches of every process, got {self.rows}."
            )

    @property
    def total_batch_size(self) -> int:
        return self.batch_size * self.processes

    def __len__(self) -> int:
        batches = self.rows // self.batch_size
        return batches - batches % self.args.gradient_accumulation_steps if self.train else batches

    def set_epoch(self, epoch: int) -> None:
        self.epoch, self.first, self.number = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Return where the stream stands: the epoch, and the number of its batches that were given out."""
        return {"epoch": self.epoch, "batch": self.number}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there: the next iteration gives the rest of the epoch, and reads no file that lies before it."""
        self.epoch, self.first, self.number = state["epoch"], state["batch"], state["batch"]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        self.number, self.first, size = self.first, 0, self.batch_size
        if self.number == len(self):
            return
        before, passed = divmod(self.number * size, self._block_rows)
        waiting = None  # rows that do not fill a batch yet
        for signals, reports in self._blocks(before):
            signals, reports = signals[passed:], reports[passed:]
            passed = 0
            if waiting is not None:
                signals, reports = np.concatenate([waiting[0], signals]), [*waiting[1], *reports]
            for start in range(0, len(signals) - size + 1, size):
                batch = self._batch(signals[start : start + size], reports[start : start + size], self.number)
                self.number += 1
                yield batch
                if self.number == len(self):
                    return
            rest = len(signals) - len(signals) % size
            waiting = signals[rest:], reports[rest:]

    @property
    def _block_rows(self) -> int:
        """Rows of a block that this process takes."""
        return self.args.shuffle_buffer if self.train else self.batch_size

    def _blocks(self, first: int) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Yield signals in µV and reports of a block of rows at a time, shuffled for training, from block `first`."""
        order, rng = np.arange(len(self.files.urls)), np.random.default_rng([self.args.seed, self.epoch])
        if self.train:
            order = rng.permutation(order)
        own = order[self.rank :: self.processes] if self.even else order
        size = self._block_rows if self.even else self._block_rows * self.processes
        ends = np.cumsum(np.array(self.files.num_rows)[own])
        passed = int(np.searchsorted(ends, first * size, side="right"))  # files that lie before the block
        urls = [self.files.urls[number] for number in own[passed:]]
        for _ in range(first if self.train else 0):
            rng.permutation(size)  # as those blocks would have drawn
        stream = load_dataset("parquet", data_files=urls, split="train", streaming=True)
        if not isinstance(stream.features["signal"], Array2D):
            raise ValueError(f"Expected an Array2D column `signal`, got {stream.features['signal']}.")
        shape, stream = stream.features["signal"].shape, stream.select_columns(COLUMNS).with_format("arrow")
        if len(self.files) < self.files.total:
            stream = stream.filter(lambda rows: list(map(has_report, rows["report"].to_pylist())), batched=True)
        for table in stream.skip(first * size - int(ends[passed - 1] if passed else 0)).iter(size):
            signals = np.concatenate([as_numpy(chunk, shape, "signal") for chunk in table.column("signal").chunks])
            rows = rng.permutation(len(signals)) if self.train else np.arange(len(signals))
            if not self.even:
                rows = rows[self.rank :: self.processes]
            reports = table.column("report").to_pylist()
            yield signals[rows], [reports[row] for row in rows]

    def _batch(self, microvolts: np.ndarray, reports: list[str], number: int) -> dict[str, torch.Tensor]:
        conditioned = condition_signals(microvolts, self.args.sampling_rate, self.extractor)
        seed = [self.args.seed, self.epoch, self.rank, number]
        return send_to_device(self.collator(conditioned, self.collator.tokenize(reports), seed), self.device)


__all__ = ["EcgReportStream", "ParquetFiles"]
