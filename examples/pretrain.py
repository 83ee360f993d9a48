"""Pre-train MERIT on ECGs and their reports.

    accelerate launch examples/pretrain.py --dataset ptb_xl --data_dir PTB_XL_FOLDER --output_dir merit-ecg

Trains on folds 1-8, validates on fold 9 after each epoch, and leaves in the output folder the model of the epoch with
the lowest validation loss, its processor, the code to load both without this package, `train_log.jsonl` and
`pretraining_results.json`. `--resume_from_checkpoint latest` goes on exactly where an interrupted run saved.
"""

import argparse
import importlib.util
import json
import math
import shutil
import time
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import GeneralTracker, on_main_process
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModel, AutoTokenizer, get_cosine_schedule_with_warmup

from modeling_merit import MeritConfig, MeritForPreTraining
from modeling_merit.configuration_merit import SIZES
from modeling_merit.processing import MeritFeatureExtractor, MeritProcessor
from modeling_merit.processing.benchmark.results import data_fingerprint, provenance, write_json
from modeling_merit.processing.data import normalize_report
from modeling_merit.processing.training.pairs import EcgReportPairs, load_tables, train_tokenizer

TEXT_TOWER = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512}
METRICS = ("loss", "reconstruction_loss", "contrastive_loss", "reconstruction_information", "text_information")


class JsonLinesTracker(GeneralTracker):
    """Writes every logged value as one line of JSON; needs no other package."""

    name = "jsonl"
    requires_logging_directory = False

    def __init__(self, path: Path, keep: bool):
        super().__init__()
        self.path = path
        if not keep:
            path.unlink(missing_ok=True)

    @property
    def tracker(self):
        return self.path

    @on_main_process
    def store_init_configuration(self, values):
        pass  # the results file holds it

    @on_main_process
    def log(self, values, step=None, **kwargs):
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


class Progress:
    """What a checkpoint must know beside weights, optimiser and random states."""

    def __init__(self):
        self.step, self.best_loss, self.curves, self.sums = 0, math.inf, [], {}

    def state_dict(self):
        return dict(vars(self))

    def load_state_dict(self, state):
        vars(self).update(state)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset", default="ptb_xl", help="ptb_xl, synthetic, or a folder or Hub id of a Parquet data set.")
    add("--data_dir", help="Folder of PTB-XL (the one with ptbxl_database.csv).")
    add("--num_records", type=int, default=2000, help="Records of the synthetic data set.")
    add("--sampling_rate", type=int, default=100, choices=(100, 500), help="Rate of the data set's signals in Hz.")
    add("--output_dir", type=Path, default=Path("merit-ecg"))
    add("--size", default="tiny", choices=tuple(SIZES), help="Size of the ECG tower and its decoder.")
    add("--text_model", help="Text encoder, a Hub id or folder; when absent a small one is trained on the reports.")
    add("--vocab_size", type=int, default=4000, help="Tokens of the tokenizer trained when no text model is named.")
    add("--max_report_tokens", type=int, default=64)
    add("--epochs", type=int, default=10)
    add("--max_train_steps", type=int, help="Stop after so many optimiser steps; overrides --epochs.")
    add("--batch_size", type=int, default=128, help="Pairs per process and forward pass.")
    add("--gradient_accumulation_steps", type=int, default=1)
    add("--learning_rate", type=float, default=2e-3)
    add("--weight_decay", type=float, default=0.05)
    add("--warmup_ratio", type=float, default=0.08)
    add("--max_grad_norm", type=float, default=1.0)
    add("--mask_ratio", type=float, default=0.75)
    add("--alignment_view", default="full", choices=("full", "masked"))
    add("--reconstruction_weight", type=float, default=1.0, help="0 switches masked ECG modelling off.")
    add(
        "--contrastive_weight",
        type=float,
        default=0.1,
        help="Weight λ of the alignment with reports; 0 switches it off.",
    )
    add("--crop_seconds", type=float, default=5.0, help="Length of the random pieces trained on.")
    add("--lead_dropout", type=float, default=0.5, help="Probability that a record loses some of its leads.")
    add("--noise_mv", type=float, default=0.0, help="Largest added white noise; it also enters what is reconstructed.")
    add(
        "--wander_mv",
        type=float,
        default=0.0,
        help="Largest added baseline wander; it also enters what is reconstructed.",
    )
    add("--normalization", default="none", choices=("none", "lead_zscore", "record_zscore"))
    add("--no_augmentation", action="store_true")
    add("--mixed_precision", choices=("no", "bf16", "fp16"), help="Default: as `accelerate config` says.")
    add("--attn_implementation", help="Default: sdpa, but eager on a CPU, where it was 1.5 times as fast.")
    add("--gradient_checkpointing", action="store_true")
    add("--num_workers", type=int, default=0)
    add("--checkpointing_steps", type=int, help="Save every so many steps; default: after each epoch.")
    add("--checkpoints_total_limit", type=int, default=2)
    add("--resume_from_checkpoint", help='A checkpoint folder, or "latest".')
    add("--overwrite_output_dir", action="store_true", help="Drop the checkpoints of an earlier run.")
    add("--report_to", nargs="*", default=[], choices=("tensorboard", "wandb", "trackio"))
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    if missing := [name for name in args.report_to if importlib.util.find_spec(name) is None]:
        parser.error(
            f"Expected the trackers of --report_to to be installed, missing {missing}: pip install {missing[0]}"
        )
    for name in ("num_records", "epochs", "max_train_steps", "batch_size", "gradient_accumulation_steps"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"Expected --{name} of at least 1, got {value}.")
    refuse_leftovers(args, parser)
    if args.resume_from_checkpoint == "latest" and not saved_checkpoints(args.output_dir):
        parser.error(f"Expected checkpoints in {args.output_dir / 'checkpoints'} to resume from, got none.")
    if args.resume_from_checkpoint not in (None, "latest") and not Path(args.resume_from_checkpoint).is_dir():
        parser.error(f"Expected a checkpoint folder or 'latest', got {args.resume_from_checkpoint!r}.")
    return args


def saved_checkpoints(output_dir):
    """Folders of the checkpoints of a run, oldest first."""
    return sorted(output_dir.glob("checkpoints/checkpoint_*"), key=lambda folder: int(folder.name.split("_")[-1]))


def refuse_leftovers(args, parser):
    """Before a run starts: one in a folder with checkpoints of another would fail when it came to save the same."""
    if saved_checkpoints(args.output_dir) and not args.resume_from_checkpoint and not args.overwrite_output_dir:
        parser.error(
            f"Expected --output_dir without checkpoints of an earlier run, got some in {args.output_dir}. Go on with "
            "it by --resume_from_checkpoint latest, drop them by --overwrite_output_dir, or name another folder."
        )


def build(args, train_table, device):
    """Model and processor. Everything random in them follows from the seed."""
    if args.text_model:
        tokenizer, text_config = (
            AutoTokenizer.from_pretrained(args.text_model),
            AutoConfig.from_pretrained(args.text_model),
        )
    else:
        reports = [normalize_report(report or "") for report in train_table["report"]]
        tokenizer = train_tokenizer(reports, args.vocab_size, args.max_report_tokens)
        text_config = AutoConfig.for_model("bert", vocab_size=len(tokenizer), **TEXT_TOWER)
    config = MeritConfig.from_size(
        args.size,
        ecg_config={"window_seconds": args.crop_seconds},
        text_config=text_config.to_dict(),
        text_pooling="cls" if args.text_model else "mean",
        mask_ratio=args.mask_ratio,
        alignment_view=args.alignment_view,
        reconstruction_weight=args.reconstruction_weight,
        contrastive_weight=args.contrastive_weight,
    )
    attention = args.attn_implementation or ("eager" if device.type == "cpu" else "sdpa")
    model = MeritForPreTraining._from_config(config, attn_implementation=attention)
    if args.text_model:
        model.merit.text_model.load_state_dict(AutoModel.from_pretrained(args.text_model).state_dict(), strict=False)
    if args.gradient_checkpointing:
        model.activation_checkpointing_enable()
    extractor = MeritFeatureExtractor(normalization=args.normalization)
    return model, MeritProcessor(extractor, tokenizer)


@torch.no_grad()
def validate(model, loader, accelerator, seed):
    """Mean of every term over the validation batches, with the same masks each time and no effect on the training."""
    model.eval()
    sums, devices = {}, [accelerator.device] if accelerator.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for batch in loader:
            output = model(**batch)
            for name in METRICS:
                if output.get(name) is not None:
                    sums[name] = sums.get(name, 0.0) + accelerator.reduce(output[name].detach().float(), "mean").item()
    model.train()
    return {name: value / len(loader) for name, value in sums.items()}


def main():
    args = parse_args()
    origin = provenance(seed=args.seed)  # now: the code on disk may change during a long run
    tracker = JsonLinesTracker(args.output_dir / "train_log.jsonl", keep=bool(args.resume_from_checkpoint))
    one_branch = not (args.reconstruction_weight and args.contrastive_weight)
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        step_scheduler_with_optimizer=False,
        log_with=[tracker, *args.report_to],
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        project_config=ProjectConfiguration(
            str(args.output_dir), automatic_checkpoint_naming=True, total_limit=args.checkpoints_total_limit
        ),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=one_branch)],
    )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with accelerator.main_process_first():
        if args.overwrite_output_dir and not args.resume_from_checkpoint:
            shutil.rmtree(args.output_dir / "checkpoints", ignore_errors=True)
        train_table, validation_table = load_tables(args)
    set_seed(args.seed)
    model, processor = build(args, train_table, accelerator.device)
    loaders = []
    for table, train in ((train_table, True), (validation_table, False)):
        pairs = EcgReportPairs(table, processor, args, train)
        size = min(args.batch_size, len(pairs) // accelerator.num_processes)
        # Its own generator: otherwise each epoch draws from the global one, and a resumed run drifts.
        loader = DataLoader(
            pairs,
            size,
            shuffle=train,
            drop_last=True,
            collate_fn=lambda batch: batch,
            num_workers=args.num_workers,
            generator=torch.Generator().manual_seed(args.seed),
        )
        loaders.append(loader)
    fingerprint = data_fingerprint(loader.dataset.view.signals(range(len(loader.dataset))) for loader in loaders)
    decay = [p for p in model.parameters() if p.ndim >= 2]
    no_decay = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": args.weight_decay}, {"params": no_decay, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.95))
    model, optimizer, train_loader, validation_loader = accelerator.prepare(model, optimizer, *loaders)
    steps_per_epoch = math.ceil(len(train_loader) / args.gradient_accumulation_steps)
    total_steps = args.max_train_steps or args.epochs * steps_per_epoch
    scheduler = get_cosine_schedule_with_warmup(optimizer, max(1, int(args.warmup_ratio * total_steps)), total_steps)
    progress = Progress()
    accelerator.register_for_checkpointing(scheduler, progress)
    accelerator.init_trackers("merit", config={name: str(value) for name, value in vars(args).items()})
    set_seed(args.seed + accelerator.process_index)  # each process its own masks
    if args.resume_from_checkpoint:
        accelerator.load_state(None if args.resume_from_checkpoint == "latest" else args.resume_from_checkpoint)
        if saved := saved_checkpoints(args.output_dir):
            accelerator.project_configuration.iteration = int(saved[-1].name.split("_")[-1]) + 1

    pairs_per_step = train_loader.total_batch_size * args.gradient_accumulation_steps
    if accelerator.is_main_process:
        processor.save_pretrained(args.output_dir)  # now, so that an interrupted run leaves a usable model
    bar = tqdm(
        total=total_steps * pairs_per_step,
        initial=progress.step * pairs_per_step,
        unit="ECG",
        disable=not accelerator.is_main_process,
    )
    started, first_step = time.perf_counter(), progress.step
    while progress.step < total_steps:
        epoch, done = divmod(progress.step, steps_per_epoch)
        train_loader.set_epoch(epoch)
        batches = train_loader
        if done:
            batches = accelerator.skip_first_batches(train_loader, done * args.gradient_accumulation_steps)
        for batch in batches:
            with accelerator.accumulate(model):
                output = model(**batch)
                accelerator.backward(output.loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            if not accelerator.sync_gradients:
                continue
            scheduler.step()
            progress.step += 1
            terms = {name: output[name].detach().float() for name in METRICS if output.get(name) is not None}
            terms = {name: accelerator.reduce(value, "mean").item() for name, value in terms.items()}
            for name, value in terms.items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            progress.sums["steps"] = progress.sums.get("steps", 0) + 1
            accelerator.log({f"train/{k}": v for k, v in terms.items()}, step=progress.step)
            bar.update(pairs_per_step)
            bar.set_postfix(epoch=epoch, loss=f"{terms['loss']:.3f}")
            if not math.isfinite(terms["loss"]):
                raise SystemExit(f"The loss became {terms['loss']} at step {progress.step}; lower --learning_rate.")
            last = progress.step == total_steps
            if progress.step % steps_per_epoch == 0 or last:
                steps = progress.sums.pop("steps")
                train_means = {name: value / steps for name, value in progress.sums.items()}
                progress.sums = {}
                means = validate(model, validation_loader, accelerator, args.seed)
                accelerator.log({f"validation/{k}": v for k, v in means.items()}, step=progress.step)
                progress.curves.append({"step": progress.step, "train": train_means, "validation": means})
                if means["loss"] < progress.best_loss:
                    progress.best_loss = means["loss"]
                    accelerator.unwrap_model(model).save_pretrained(
                        args.output_dir, is_main_process=accelerator.is_main_process
                    )
            due = args.checkpointing_steps or steps_per_epoch
            if progress.step % due == 0 and not last:
                accelerator.save_state()
            if last:
                break
    bar.close()
    if accelerator.is_main_process:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
        seconds = time.perf_counter() - started
        results = {
            "data_fingerprint": fingerprint,
            "settings": settings,
            "train_records": len(loaders[0].dataset),
            "validation_records": len(loaders[1].dataset),
            "parameters": accelerator.unwrap_model(model).num_parameters(),
            "processes": accelerator.num_processes,
            "mixed_precision": accelerator.mixed_precision,
            "seconds": round(seconds, 1),
            "ecgs_per_second": round((progress.step - first_step) * pairs_per_step / max(seconds, 1e-9), 1),
            "best_validation_loss": progress.best_loss,
            "curves": progress.curves,
        }
        write_json(args.output_dir / "pretraining_results.json", origin | results)
    accelerator.end_training()


if __name__ == "__main__":
    main()
