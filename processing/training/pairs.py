"""The data of pre-training: splits, and batches of ECGs with their reports."""

import numpy as np
import torch
from datasets.exceptions import DatasetsError
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


def load_tables(args):
    """Return the training and validation tables; records without a report are left out when reports are aligned."""
    tables = []
    for split in ("train", "validation"):
        table = load_split(args, split)
        total = len(table)
        if args.contrastive_weight or args.word_weight:
            table = table.select([i for i, report in enumerate(table["report"]) if report and report.strip()])
        if len(table) < 2:
            raise SystemExit(
                f"Expected ECGs with reports in the {split} split of {args.dataset}, got {len(table)} of {total}."
            )
        tables.append(table)
    return tables


def read_signals(view, rows, sampling_rate, extractor):
    """Return signals of a table in mV at the extractor's sampling rate, conditioned: (rows, 12, samples) float32, NaN
    where nothing was recorded."""
    signals, missing = split_missing(view.signals(rows))
    signals = extractor.condition(resample(signals, sampling_rate, extractor.sampling_rate, extractor.resample_window))
    if missing is not None:
        signals[resample_invalid(missing, sampling_rate, extractor.sampling_rate)] = np.nan
    return signals


class EcgReportPairs(Dataset):
    """Whole batches of model inputs. The random numbers of a batch follow from seed, epoch and first record alone, so
    that a resumed run, or one with more workers, sees the same augmentations."""

    def __init__(self, table, processor, args, train):
        self.view, self.processor, self.args, self.train, self.epoch = SignalView(table), processor, args, train, 0
        reports = [normalize_report(report) for report in self.view.reports]
        self.tokens = processor.tokenizer(reports, truncation=True, max_length=args.max_report_tokens)["input_ids"]

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.view)

    def __getitems__(self, indices):
        extractor, args = self.processor.feature_extractor, self.args
        signals, mask = read_signals(self.view, indices, args.sampling_rate, extractor), None
        rate, crop = extractor.sampling_rate, args.crop_seconds
        if self.train and not args.no_augmentation:
            rng = np.random.default_rng([args.seed, self.epoch, indices[0]])
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
        text = self.processor.tokenizer.pad(
            {"input_ids": [self.tokens[i] for i in indices]}, pad_to_multiple_of=8, return_tensors="pt"
        )
        return batch | {"input_ids": text["input_ids"], "attention_mask": text["attention_mask"]}


__all__ = ["EcgReportPairs", "load_split", "load_tables", "read_signals"]
