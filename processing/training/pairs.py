"""The data of pre-training: splits, batches of ECGs with their reports, and a tokenizer of the reports. No script to
run."""

import numpy as np
import torch
from datasets import load_dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from modeling_merit.processing.augmentation import augment_ecg
from modeling_merit.processing.data import PtbXl, SignalView, SyntheticEcg, normalize_report
from modeling_merit.processing.resampling import resample
from modeling_merit.processing.units import MICROVOLTS_PER_MILLIVOLT


def load_split(args, split):
    """One split of the data set that `--dataset`, `--data_dir` and `--sampling_rate` name."""
    if args.dataset == "ptb_xl":
        builder = PtbXl(config_name=f"{args.sampling_rate}hz", data_dir=args.data_dir)
    elif args.dataset == "synthetic":
        builder = SyntheticEcg(n_records=args.num_records, seed=args.seed, sampling_rate=float(args.sampling_rate))
    else:
        return load_dataset(args.dataset, split=split)
    builder.download_and_prepare()
    return builder.as_dataset(split)


def load_tables(args):
    """The training and validation tables; records without a report are left out when reports are aligned."""
    tables = []
    for split in ("train", "validation"):
        table = load_split(args, split)
        total = len(table)
        if args.contrastive_weight:
            table = table.select([i for i, report in enumerate(table["report"]) if report and report.strip()])
        if len(table) < 2:
            raise SystemExit(
                f"Expected ECGs with reports in the {split} split of {args.dataset}, got {len(table)} of {total}."
            )
        tables.append(table)
    return tables


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
        signals = self.view.signals(indices).astype(np.float32) / MICROVOLTS_PER_MILLIVOLT
        signals = resample(signals, args.sampling_rate, extractor.sampling_rate, extractor.resample_window)
        mask = None
        rate, crop = extractor.sampling_rate, args.crop_seconds
        if self.train and not args.no_augmentation:
            rng = np.random.default_rng([args.seed, self.epoch, indices[0]])
            signals, mask = augment_ecg(
                signals,
                rng,
                sampling_rate=rate,
                crop_seconds=crop,
                lead_dropout=args.lead_dropout,
                noise_mv=args.noise_mv,
                wander_mv=args.wander_mv,
            )
        elif crop:
            signals = signals[..., : round(crop * rate)]
        batch = {"input_values": torch.from_numpy(extractor.normalize(signals, mask))}
        if mask is not None:
            batch["ecg_mask"] = torch.from_numpy(np.ascontiguousarray(mask))
        text = self.processor.tokenizer.pad(
            {"input_ids": [self.tokens[i] for i in indices]}, pad_to_multiple_of=8, return_tensors="pt"
        )
        return batch | {"input_ids": text["input_ids"], "attention_mask": text["attention_mask"]}


def train_tokenizer(reports, vocab_size, max_length):
    """A WordPiece tokenizer of the corpus, lower case without accents; equal reports give an equal tokenizer."""
    normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    # The trainer numbers the letters within words in the random order of a hash map, and breaks ties by these numbers.
    letters = sorted(set("".join(map(normalizer.normalize_str, reports)).replace(" ", "")))
    first = [*special, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(reports, trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=first))
    # Anew from its vocabulary: the trained one takes those letters for special tokens.
    tokenizer = Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ids)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **names)
