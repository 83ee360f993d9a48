"""The data of pre-training: splits, and batches of ECGs with their reports."""

import numpy as np
import torch
from datasets.exceptions import DatasetsError
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ..augmentation import augment_ecg
from ..data import SignalView, normalize_report
from ..data.microvolts import crop_recorded, mask_recorded, split_missing
from ..data.sources import load_mixture, options_of
from ..resampling import resample, resample_invalid


def load_split(args, split):
    """Return one split of the data sets that `--dataset` and the other options of data name."""
    try:
        return load_mixture(args.dataset, split, getattr(args, "dataset_weights", None), options_of(vars(args)))
    except (OSError, ValueError, DatasetsError) as error:  # no such data, no such split, a damaged file
        text = str(error).splitlines() or [type(error).__name__]
        raise SystemExit(f"The {split} split of {args.dataset} cannot be read: {text[0][:500]}") from error


def has_report(report):
    """Say whether a cell of a column of reports holds one."""
    return bool(report and report.strip())


def load_tables(args):
    """Return the training and validation tables; records without a report are left out when reports are aligned."""
    tables = []
    for split in ("train", "validation"):
        table = load_split(args, split)
        total = len(table)
        if args.contrastive_weight or args.word_weight:
            table = table.select([i for i, report in enumerate(table["report"]) if has_report(report)])
        if len(table) < 2:
            raise SystemExit(
                f"Expected ECGs with reports in the {split} split of {args.dataset}, got {len(table)} of {total}."
            )
        tables.append(table)
    return tables


def read_signals(view, rows, sampling_rate, extractor):
    """Return signals of a table as `condition_signals` does."""
    return condition_signals(view.signals(rows), sampling_rate, extractor)


def condition_signals(microvolts, sampling_rate, extractor):
    """Return int16 µV in mV at the extractor's sampling rate, conditioned: (rows, 12, samples) float32, NaN where
    nothing was recorded."""
    signals, missing = split_missing(microvolts)
    signals = extractor.condition(resample(signals, sampling_rate, extractor.sampling_rate, extractor.resample_window))
    if missing is not None:
        signals[resample_invalid(missing, sampling_rate, extractor.sampling_rate)] = np.nan
    return signals


class ConditionedSignals:
    """What `read_signals` returns, by rows of a view.

    Conditioning takes most of the time of a batch. With `keep` every record is conditioned once, in advance, and stays
    in memory: 4 bytes per sample, 1 GB for PTB-XL at 100 Hz.
    """

    def __init__(self, view, sampling_rate, extractor, keep=False, rows=None):
        self.source, self.kept = (view, sampling_rate, extractor), None
        self.rows = np.arange(len(view)) if rows is None else np.asarray(rows)
        if keep:
            parts = (self[range(start, min(start + 512, len(self.rows)))] for start in range(0, len(self.rows), 512))
            first = next(parts)
            kept = np.empty((len(self.rows), *first.shape[1:]), dtype=np.float32)
            kept[: len(first)] = first
            for number, part in enumerate(parts, start=1):
                kept[number * 512 : number * 512 + len(part)] = part
            self.kept = kept

    def __getitem__(self, indices):
        """(batch, leads, samples), the rows of `rows` that have these numbers; a new array, to be changed at will."""
        if self.kept is not None:
            return self.kept[np.asarray(indices)]
        view, sampling_rate, extractor = self.source
        return read_signals(view, self.rows[np.asarray(indices)], sampling_rate, extractor)


class Tokens:
    """The tokens of many reports in one array: a tensor of its own for each would take a hundred times the memory."""

    def __init__(self, ids):
        self.ends = np.cumsum([len(of_report) for of_report in ids], dtype=np.int64)
        self.flat = torch.from_numpy(np.fromiter((i for of_report in ids for i in of_report), np.int32, self.ends[-1]))

    def __len__(self):
        return len(self.ends)

    def __getitem__(self, number):
        """Return those of one report, int64."""
        if not 0 <= number < len(self.ends):
            raise IndexError(f"Expected a number below {len(self.ends)}, got {number}.")
        start = self.ends[number - 1] if number else 0
        return self.flat[start : self.ends[number]].long()


class PairCollator:
    """Makes whole batches of model inputs of signals and reports, augmented for training."""

    def __init__(self, processor, args, train):
        self.processor, self.args, self.train = processor, args, train

    def tokenize(self, reports):
        """Return the [`Tokens`] of reports."""
        reports = [normalize_report(report or "") for report in reports]
        ids = self.processor.tokenizer(reports, truncation=True, max_length=self.args.max_report_tokens)["input_ids"]
        return Tokens(ids)

    def __call__(self, signals, tokens, seed):
        """Return the inputs of a batch; its random numbers follow from `seed`, a list of numbers."""
        extractor, args, mask = self.processor.feature_extractor, self.args, None
        rate, crop = extractor.sampling_rate, args.crop_seconds
        if self.train and not args.no_augmentation:
            rng = np.random.default_rng(seed)
            if crop and np.isnan(signals).any():  # else crops of short records would hold nothing
                signals = crop_recorded(signals, round(crop * rate), rng)
            signals, mask = augment_ecg(
                signals,
                rng,
                sampling_rate=rate,
                crop_seconds=crop,
                lead_dropout=args.lead_dropout,
                noise_mv=args.noise_mv,
                wander_mv=args.wander_mv,
                gap_probability=args.gap_probability,
            )
        elif crop:
            signals = signals[..., : round(crop * rate)]
        mask = mask_recorded(signals, mask)
        batch = {"input_values": torch.from_numpy(extractor.normalize(signals, mask))}
        if mask is not None:
            batch["ecg_mask"] = torch.from_numpy(np.ascontiguousarray(mask))
        return batch | self._pad(list(tokens))

    def _pad(self, reports):
        """Tokens and attention mask, padded to a multiple of 8: `tokenizer.pad` takes longer than all signals."""
        tokenizer = self.processor.tokenizer
        side, right = tokenizer.padding_side, tokenizer.padding_side == "right"
        mask = pad_sequence([torch.ones_like(ids) for ids in reports], batch_first=True, padding_side=side)
        ids = pad_sequence(reports, batch_first=True, padding_value=tokenizer.pad_token_id, padding_side=side)
        missing = -ids.shape[1] % 8
        pads = (0, missing) if right else (missing, 0)
        return {"input_ids": pad(ids, pads, value=tokenizer.pad_token_id), "attention_mask": pad(mask, pads)}


class EcgReportPairs(Dataset):
    """Whole batches of model inputs of a table. The random numbers of a batch follow from seed, epoch and first record
    alone, so that a resumed run, or one with more workers, sees the same augmentations."""

    def __init__(self, table, processor, args, train):
        self.view, self.args, self.epoch = SignalView(table), args, 0
        self.collator = PairCollator(processor, args, train)
        self.tokens = self.collator.tokenize(self.view.reports)
        self.signals = ConditionedSignals(
            self.view, args.sampling_rate, processor.feature_extractor, args.keep_in_memory
        )

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.view)

    def __getitems__(self, indices):
        tokens = [self.tokens[i] for i in indices]
        return self.collator(self.signals[indices], tokens, [self.args.seed, self.epoch, indices[0]])


__all__ = [
    "ConditionedSignals",
    "EcgReportPairs",
    "PairCollator",
    "condition_signals",
    "has_report",
    "load_split",
    "load_tables",
    "read_signals",
]
