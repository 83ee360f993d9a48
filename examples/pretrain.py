"""Pre-train MERIT on ECGs and their reports.

    accelerate launch examples/pretrain.py --dataset ptb_xl --data_dir PTB_XL_FOLDER --output_dir merit-ecg

Trains on folds 1-8, validates on fold 9 after each epoch, and leaves in the output folder the model of the epoch with
the lowest validation loss, its processor, the code to load both without this package, `train_log.jsonl` and
`pretraining_results.json`. `--resume_from_checkpoint latest` goes on exactly where an interrupted run saved.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModel, AutoTokenizer

from modeling_merit import MeritConfig, MeritForPreTraining
from modeling_merit.configuration_merit import SIZES
from modeling_merit.processing import MeritFeatureExtractor, MeritProcessor
from modeling_merit.processing.benchmark.options import check_sizes, model_source, option_parser
from modeling_merit.processing.benchmark.results import data_fingerprint, provenance, write_json
from modeling_merit.processing.data import normalize_report
from modeling_merit.processing.data.sources import family_of, split_names
from modeling_merit.processing.data.tables import is_table
from modeling_merit.processing.training.cached_gradients import backward_in_parts
from modeling_merit.processing.training.checkpoints import check_output_dir
from modeling_merit.processing.training.optimizer_groups import parameter_groups
from modeling_merit.processing.training.pairs import EcgReportPairs, load_tables
from modeling_merit.processing.training.publishing import PUSH_OPTIONS, check_push, push_output
from modeling_merit.processing.training.run import (
    RUN_OPTIONS,
    average_weights,
    cosine_schedule,
    settings,
    start,
    train,
)
from modeling_merit.processing.training.streaming import EcgReportStream, ParquetFiles
from modeling_merit.processing.training.tokenizers import frequent_ngrams, train_wordpiece

METRICS = (
    *("loss", "reconstruction_loss", "contrastive_loss", "word_loss"),
    *("reconstruction_information", "text_information", "word_information"),
)

UNSTREAMED = (
    *("data_dir", "num_records", "dataset_weights", "path_column", "report_column", "patient_column", "split_column"),
    *("seconds", "on_error", "num_proc", "num_workers", "keep_in_memory"),
)


def parse_args():
    parser = option_parser(
        __doc__,
        *(name for name in RUN_OPTIONS if name != "weight_decay"),
        *PUSH_OPTIONS,
        "batch_size",
        "warmup_ratio",
        "keep_in_memory",
        crop_seconds={"default": 2.56},
        weight_decay={"default": 0.01},
        data_dir={"required": False},
        epochs={"default": 30},
        output_dir={"required": False, "default": Path("merit-ecg")},
    )
    add = parser.add_argument
    add("--size", default="small", choices=tuple(SIZES), help="Size of the encoders and the decoder.")
    add(
        "--text_model",
        type=model_source,
        help="Text encoder, a Hub id or folder; when absent a small one is trained on the reports.",
    )
    add("--vocab_size", type=int, default=4000, help="Tokens of the tokenizer trained when no text model is named.")
    add("--streaming", action="store_true", help="Read --dataset, a folder or URL of Parquet files, as a stream.")
    add(
        "--shuffle_buffer", type=int, default=2048, help="Rows of a stream that are shuffled at a time, besides files."
    )
    add("--max_report_tokens", type=int, default=64, help="Longer reports are cut off.")
    add("--max_ngram", type=int, default=3, help="Tokens of the longest phrase that is predicted from the ECG.")
    add("--min_reports", type=int, default=20, help="Training reports that hold a predicted word or phrase, at least.")
    add("--learning_rate", type=float, default=5e-3, help="The highest, after the warm-up.")
    add(
        "--forward_batch_size",
        type=int,
        help="Pairs encoded at a time; less memory, twice the encoding. Default: all.",
    )
    add("--mask_ratio", type=float, default=0.5, help="Fraction of the patches that is masked.")
    add("--reconstruction_weight", type=float, default=1.0, help="0 switches masked ECG modelling off.")
    add("--contrastive_weight", type=float, default=1.0, help="Weight λ of contrastive alignment; 0 switches it off.")
    add("--word_weight", type=float, default=0.1, help="Weight of the words of the report; 0 switches them off.")
    add("--dropout", type=float, default=0.1, help="Dropout of the pooled feature.")
    add("--drop_path", type=float, default=0.0, help="Probability of leaving out the last residual block.")
    add(
        "--ema_decay",
        type=float,
        default=0.0,
        help="Keep the exponential moving average of the weights instead, with this decay per step; 0 does not.",
    )
    add("--lead_dropout", type=float, default=0.3, help="Probability that a record loses some of its leads.")
    add("--gap_probability", type=float, default=0.1, help="Probability that some time of a record is masked.")
    add("--noise_mv", type=float, default=0.05, help="Largest added white noise; it is reconstructed, too.")
    add("--wander_mv", type=float, default=0.05, help="Largest added baseline wander; it is reconstructed, too.")
    add("--high_pass", type=float, default=0.5, help="Offset and drift below this frequency in Hz are taken off.")
    add("--normalization", default="none", choices=("none", "lead_zscore", "record_zscore"))
    add("--no_augmentation", action="store_true", help="Train on the beginnings of the records as they are.")
    add("--gradient_checkpointing", action="store_true", help="Less memory for more time.")
    add("--num_workers", type=int, default=0, help="Processes that load batches.")
    add("--report_to", nargs="*", default=[], choices=("tensorboard", "wandb", "trackio"))
    args = parser.parse_args()
    if missing := [name for name in args.report_to if importlib.util.find_spec(name) is None]:
        parser.error(
            f"Expected the trackers of --report_to to be installed, missing {missing}: pip install {missing[0]}"
        )
    if args.forward_batch_size is not None and (args.forward_batch_size < 2 or not args.contrastive_weight):
        parser.error(
            "Expected --forward_batch_size of at least 2, and --contrastive_weight above 0, got "
            f"{args.forward_batch_size} and {args.contrastive_weight:g}. Without contrast, use "
            "--gradient_accumulation_steps."
        )
    if not 0 <= args.ema_decay < 1:
        parser.error(f"Expected --ema_decay of at least 0 and below 1, got {args.ema_decay:g}.")
    if args.streaming and (given := [name for name in UNSTREAMED if getattr(args, name) != parser.get_default(name)]):
        parser.error(
            f"Expected --streaming without --{' --'.join(given)}, which a stream of Parquet files has no use for."
        )
    check_sizes(parser, args)
    made_here = all(family_of(name) or is_table(name) for name in split_names(args.dataset))  # --seconds long
    if not args.streaming and made_here and args.crop_seconds > args.seconds:
        parser.error(
            f"Expected --crop_seconds of at most {args.seconds:g}, the length of the signals, got "
            f"{args.crop_seconds:g}."
        )
    check_output_dir(parser, args)
    check_push(parser, args)
    return args


def build(args, train_table):
    """Return model and processor. Everything random in them follows from the seed."""
    reports = [normalize_report(report or "") for report in train_table["report"]]
    if args.text_model:
        tokenizer, text_config = (
            AutoTokenizer.from_pretrained(args.text_model),
            AutoConfig.from_pretrained(args.text_model),
        )
    else:
        tokenizer = train_wordpiece(reports, args.vocab_size, args.max_report_tokens)
        text_config = None
    ids = tokenizer(reports, truncation=True, max_length=args.max_report_tokens)["input_ids"]
    # Phrases are numbered by the size of the model's vocabulary, which may be larger than that of its tokenizer.
    vocabulary = len(tokenizer) if text_config is None else text_config.vocab_size
    keys, frequencies = frequent_ngrams(ids, vocabulary, args.max_ngram, args.min_reports)
    config = MeritConfig.from_size(
        args.size,
        ecg_config={
            "window_seconds": args.crop_seconds,
            "hidden_dropout": args.dropout,
            "drop_path_rate": args.drop_path,
            # For probes; the heads trained here read the last stage alone.
            "pooler_stages": len(SIZES[args.size]["ecg_config"][1]),
            "pooler_largest": True,
        },
        text_config={"vocab_size": vocabulary} if text_config is None else text_config.to_dict(),
        text_pooling="cls" if args.text_model else "mean",
        mask_ratio=args.mask_ratio,
        max_ngram=args.max_ngram,
        num_words=len(keys) if args.word_weight else 0,
        reconstruction_weight=args.reconstruction_weight,
        contrastive_weight=args.contrastive_weight,
        word_weight=args.word_weight,
    )
    model = MeritForPreTraining(config)
    if config.num_words:
        model.merit.set_words(torch.from_numpy(keys), torch.from_numpy(frequencies))
    if args.text_model:
        model.merit.text_model.load_state_dict(AutoModel.from_pretrained(args.text_model).state_dict(), strict=False)
    if args.gradient_checkpointing:
        model.activation_checkpointing_enable()
    extractor = MeritFeatureExtractor(
        normalization=args.normalization,
        high_pass=args.high_pass or None,
        sampling_rate=config.ecg_config.sampling_rate,
        patch_length=config.ecg_config.patch_length,
    )
    return model, MeritProcessor(extractor, tokenizer)


def open_streams(args):
    """Return the Parquet files of both splits, as `load_tables` returns tables."""
    files, aligned = [], bool(args.contrastive_weight or args.word_weight)
    try:
        for split in ("train", "validation"):
            files.append(ParquetFiles(args.dataset, split, reported=aligned))
            if len(files[-1]) < 2:
                raise ValueError(
                    f"Expected ECGs with reports in the {split} split, got {len(files[-1])} of {files[-1].total}."
                )
    except (OSError, ValueError) as error:
        raise SystemExit(f"{args.dataset} cannot be streamed: {error}") from error
    return files


def make_loaders(args, tables, processor, accelerator):
    """Return the loaders of training and validation, and the fingerprints and sizes of what they read."""
    if args.streaming:
        try:
            loaders = [
                EcgReportStream(part, processor, args, train, accelerator)
                for part, train in zip(tables, (True, False))
            ]
        except ValueError as error:
            raise SystemExit(f"{args.dataset} cannot be streamed: {error}") from error
        files = (np.array([part.num_rows, part.sizes]) for part in tables)
        reports = (
            np.frombuffer("\n".join(report or "" for report in part["report"]).encode(), dtype=np.uint8)
            for part in tables
        )
    else:
        loaders = []
        for table, training in zip(tables, (True, False)):
            pairs = EcgReportPairs(table, processor, args, training)
            # Its own generator: otherwise each epoch draws from the global one, and a resumed run drifts.
            loader = DataLoader(
                pairs,
                min(args.batch_size, len(pairs) // accelerator.num_processes),
                shuffle=training,
                drop_last=True,
                collate_fn=lambda batch: batch,
                num_workers=args.num_workers,
                generator=torch.Generator().manual_seed(args.seed),
            )
            loaders.append(loader)
        both = [loader.dataset for loader in loaders]
        files = (pairs.view.signals(range(len(pairs))) for pairs in both)
        reports = (np.array(ids) for pairs in both for ids in pairs.tokens)
        loaders = accelerator.prepare(*loaders)
    data = {
        "data_fingerprint": data_fingerprint(files),
        "train_records": len(tables[0]),
        "validation_records": len(tables[1]),
    }
    return loaders, data, data_fingerprint(reports)


def validate(model, loader, accelerator, seed):
    """Return the mean of every term over the validation batches: the same masks each time, training not affected."""
    sums, devices = {}, [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for batch in loader:
            output = model(**batch)
            for name in METRICS:
                if output.get(name) is not None:
                    sums[name] = sums.get(name, 0.0) + accelerator.reduce(output[name].float(), "mean").item()
    return {name: value / len(loader) for name, value in sums.items()}


def main():
    args = parse_args()
    origin = provenance(seed=args.seed)  # now: the code on disk may change during a long run
    one_branch = not (args.reconstruction_weight and args.contrastive_weight and args.word_weight)
    accelerator = start(args, args.report_to, unused_parameters=one_branch)
    with accelerator.main_process_first():
        tables = open_streams(args) if args.streaming else load_tables(args)
    set_seed(args.seed)
    model, processor = build(args, tables[0])
    loaders, data, reports_fingerprint = make_loaders(args, tables, processor, accelerator)
    parameters = model.num_parameters()
    groups = parameter_groups(model, args.learning_rate, args.weight_decay)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    averaged = average_weights(model, args.ema_decay) if args.ema_decay else None
    model, optimizer = accelerator.prepare(model, optimizer)
    outcome = train(
        model,
        optimizer,
        cosine_schedule(args, optimizer, loaders[0]),
        loaders[0],
        accelerator,
        args,
        processor,
        project="merit",
        metrics=METRICS,
        validate=lambda evaluated: validate(evaluated, loaders[1], accelerator, args.seed),
        set_epoch=loaders[0].set_epoch,
        unit="ecg",
        data=data | {"reports_fingerprint": reports_fingerprint},
        any_processes=not args.streaming,
        backward=args.forward_batch_size
        and (lambda batch: backward_in_parts(model, batch, args.forward_batch_size, accelerator)),
        averaged=averaged,
    )
    if accelerator.is_main_process:
        about = data | {"settings": settings(args), "parameters": parameters}
        about |= {"mixed_precision": accelerator.mixed_precision}
        write_json(args.output_dir / "pretraining_results.json", origin | about | outcome)
        push_output(args, origin | about)
    accelerator.wait_for_everyone()  # a process that leaves early takes the connections of the others with it


if __name__ == "__main__":
    main()
