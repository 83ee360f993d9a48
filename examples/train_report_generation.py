"""Teach a language model to write reports from the tokens of a MERIT ECG tower.

    accelerate launch examples/train_report_generation.py --ecg_model merit-ecg --data_dir PTB_XL_FOLDER \
        --output_dir merit-report

The tower stays frozen and each ECG is encoded once. With `--language_model` (Hub id or folder) the projector is warmed
up first, then LoRA adapters or the whole language model join in; without it a small one is trained from scratch, with
its own tokenizer. The loss is that of the answers. Trains on folds 1-8, keeps the model of the lowest loss on fold 9,
and goes on exactly where an interrupted run saved with `--resume_from_checkpoint latest`. What it writes is not for
clinical use.
"""

import argparse
import math
import shutil
import time
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import ProjectConfiguration, set_seed
from pretrain import JsonLinesTracker, Progress, refuse_leftovers, saved_checkpoints  # the script beside this one
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

from modeling_merit import MeritEcgModel, MeritFeatureExtractor, MeritForConditionalGeneration, MeritProcessor
from modeling_merit.configuration_merit import PROMPTS
from modeling_merit.processing.benchmark.results import provenance, write_json
from modeling_merit.processing.training.report_pairs import (
    ECG_TOKEN,
    Answers,
    LengthBatches,
    load_reports,
    make_examples,
    train_tokenizer,
)

SMALL_LM = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--ecg_model", required=True, help="Folder or Hub id of any MERIT checkpoint.")
    add("--random_encoder", action="store_true", help="A control: the tower's shape with random weights.")
    add("--language_model", help="Causal language model, Hub id or folder; when absent a small one from scratch.")
    add("--train_language_model", default="full", choices=("full", "lora", "none"))
    add("--lora_rank", type=int, default=16)
    add("--train_encoder", action="store_true", help="Tune the tower, too; then nothing is encoded in advance.")
    add("--projector_type", default="mlp", choices=("mlp", "perceiver"))
    add("--num_ecg_tokens", type=int, default=12)
    add("--tasks", nargs="+", default=["report"], choices=tuple(PROMPTS))
    add("--questions", type=Path, help='JSONL of {"ecg": ecg_id or list of them, "question": ..., "answer": ...}.')
    add("--dataset", default="ptb_xl", help="ptb_xl, synthetic, or a folder or Hub id of a Parquet data set.")
    add("--data_dir", help="Folder of PTB-XL (the one with ptbxl_database.csv).")
    add("--num_records", type=int, default=2000, help="Records of the synthetic data set.")
    add("--sampling_rate", type=int, default=100, choices=(100, 500), help="Rate of the data set's signals in Hz.")
    add("--output_dir", type=Path, default=Path("merit-report"))
    add("--vocab_size", type=int, default=2000, help="Tokens of the tokenizer trained when no model is named.")
    add("--max_answer_tokens", type=int, default=128)
    add("--epochs", type=int, default=10)
    add("--max_train_steps", type=int, help="Stop after so many optimiser steps; overrides --epochs.")
    add("--projector_warmup_steps", type=int, help="Projector alone; default: 10 %% of the steps with a trained LM.")
    add("--batch_size", type=int, default=64, help="Examples per process and forward pass.")
    add("--gradient_accumulation_steps", type=int, default=1)
    add("--learning_rate", type=float, help="Of the language model; default: 1e-3 from scratch, else 2e-4.")
    add("--projector_learning_rate", type=float, default=1e-3)
    add("--weight_decay", type=float, default=0.05)
    add("--warmup_ratio", type=float, default=0.05)
    add("--max_grad_norm", type=float, default=1.0)
    add("--mixed_precision", choices=("no", "bf16", "fp16"), help="Default: as `accelerate config` says.")
    add("--checkpointing_steps", type=int, help="Save every so many steps; default: after each epoch.")
    add("--checkpoints_total_limit", type=int, default=2)
    add("--resume_from_checkpoint", help='A checkpoint folder, or "latest".')
    add("--overwrite_output_dir", action="store_true", help="Drop the checkpoints of an earlier run.")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    if ("question" in args.tasks) != (args.questions is not None):
        parser.error("Expected --questions FILE together with --tasks question, got one without the other.")
    refuse_leftovers(args, parser)
    return args


def build(args, table):
    """Model and processor. Everything random in them follows from the seed."""
    ecg_model = MeritEcgModel.from_pretrained(args.ecg_model)
    if args.random_encoder:
        ecg_model = MeritEcgModel(ecg_model.config)
    if args.language_model:
        # Left: the prompts of a batch end together, where the answers begin.
        tokenizer = AutoTokenizer.from_pretrained(args.language_model, padding_side="left")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        language_model = AutoModelForCausalLM.from_pretrained(args.language_model, dtype=torch.float32)
    else:
        tokenizer = train_tokenizer(
            (part for _, prompt, answer in make_examples(args, table) for part in (prompt, " " + answer)),
            args.vocab_size,
        )
        ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 1024, "tie_word_embeddings": True}
        language_model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SMALL_LM, **sizes, **ids))
    tokenizer.add_tokens([ECG_TOKEN], special_tokens=True)
    model = MeritForConditionalGeneration.from_ecg_text_pretrained(
        ecg_model,
        language_model,
        ecg_token_id=tokenizer.convert_tokens_to_ids(ECG_TOKEN),
        num_ecg_tokens=args.num_ecg_tokens,
        projector_type=args.projector_type,
    )
    greedy = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    model.generation_config.update(
        max_new_tokens=args.max_answer_tokens, pad_token_id=tokenizer.pad_token_id, **greedy
    )
    try:
        extractor = MeritFeatureExtractor.from_pretrained(args.ecg_model)
    except OSError:  # a tower saved without one
        extractor = MeritFeatureExtractor(leads=ecg_model.config.leads, sampling_rate=ecg_model.config.sampling_rate)
    processor = MeritProcessor(extractor, tokenizer, num_ecg_tokens=args.num_ecg_tokens)
    model.requires_grad_(False)
    if args.train_language_model == "lora":
        model = add_lora(model, args)
    elif args.train_language_model == "full":
        model.language_model.requires_grad_(True)
    model.projector.requires_grad_(True)
    if args.train_encoder:
        model.ecg_model.requires_grad_(True)
    return model, processor


def add_lora(model, args):
    """Adapters on every linear layer of the language model; they are saved alone, beside the `base` they belong to."""
    from peft import LoraConfig

    base = args.output_dir / "base"
    if not base.exists():
        model.save_pretrained(base)
    model = MeritForConditionalGeneration.from_pretrained(base).requires_grad_(False)
    head = model.get_output_embeddings()
    linear = [
        name
        for name, module in model.named_modules()
        if name.startswith("language_model.") and type(module).__name__ in ("Linear", "Conv1D") and module is not head
    ]
    tuned = ["projector", "ecg_model"] if args.train_encoder else ["projector"]
    model.add_adapter(LoraConfig(r=args.lora_rank, target_modules=linear, modules_to_save=tuned))
    return model


@torch.no_grad()
def validate(model, loader, accelerator):
    """Mean loss of an answer token."""
    model.eval()
    total = torch.zeros(2, device=accelerator.device, dtype=torch.float64)
    for batch in loader:
        tokens = (batch["labels"][:, 1:] >= 0).sum()
        total += torch.stack([model(**batch).loss.double() * tokens, tokens.double()])
    model.train()
    loss, tokens = accelerator.reduce(total, "sum").tolist()
    return loss / tokens


def main():
    args = parse_args()
    origin = provenance(seed=args.seed)  # now: the code on disk may change during a long run
    tracker = JsonLinesTracker(args.output_dir / "train_log.jsonl", keep=bool(args.resume_from_checkpoint))
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        step_scheduler_with_optimizer=False,
        log_with=[tracker],
        project_config=ProjectConfiguration(
            str(args.output_dir), automatic_checkpoint_naming=True, total_limit=args.checkpoints_total_limit
        ),
        # Without absent leads, the vector that stands for them has no gradient.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with accelerator.main_process_first():
        if args.overwrite_output_dir and not args.resume_from_checkpoint:
            shutil.rmtree(args.output_dir / "checkpoints", ignore_errors=True)
        tables = [load_reports(args, split) for split in ("train", "validation")]
        set_seed(args.seed)
        model, processor = build(args, tables[0])
    model.to(accelerator.device)
    started = time.perf_counter()
    tower = None if args.train_encoder else model.ecg_model
    answers = [Answers(args, table, processor, tower) for table in tables]
    encoding_seconds = time.perf_counter() - started
    samplers = [LengthBatches(data.examples, args.batch_size, args.seed, data is answers[0]) for data in answers]
    loaders = [
        DataLoader(
            data,
            batch_sampler=sampler,
            collate_fn=lambda batch: batch,
            generator=torch.Generator().manual_seed(args.seed),  # a resumed run must not draw from the global one
        )
        for data, sampler in zip(answers, samplers)
    ]
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for n, p in named if ("projector" in n) is projector], "lr": rate}
        for projector, rate in (
            (True, args.projector_learning_rate),
            (False, args.learning_rate or (2e-4 if args.language_model else 1e-3)),
        )
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=args.weight_decay)
    model, optimizer, *loaders = accelerator.prepare(model, optimizer, *loaders)
    train_loader, validation_loader = loaders
    steps_per_epoch = math.ceil(len(train_loader) / args.gradient_accumulation_steps)
    total_steps = args.max_train_steps or args.epochs * steps_per_epoch
    alone = args.projector_warmup_steps
    if alone is None:
        alone = total_steps // 10 if args.language_model else 0
    scheduler = get_cosine_schedule_with_warmup(optimizer, max(1, int(args.warmup_ratio * total_steps)), total_steps)
    cosine = scheduler.lr_lambdas[0]
    scheduler.lr_lambdas[1:] = [lambda step: cosine(step) if step >= alone else 0.0] * (len(groups) - 1)
    progress = Progress()
    accelerator.register_for_checkpointing(scheduler, progress)
    accelerator.init_trackers("merit-report", config={name: str(value) for name, value in vars(args).items()})
    set_seed(args.seed + accelerator.process_index)
    if args.resume_from_checkpoint:
        accelerator.load_state(None if args.resume_from_checkpoint == "latest" else args.resume_from_checkpoint)
        if saved := saved_checkpoints(args.output_dir):
            accelerator.project_configuration.iteration = int(saved[-1].name.split("_")[-1]) + 1

    batch = args.batch_size * args.gradient_accumulation_steps * accelerator.num_processes
    bar = tqdm(
        total=total_steps, initial=progress.step, unit="step", disable=not accelerator.is_main_process, smoothing=0.1
    )
    started, first_step = time.perf_counter(), progress.step
    model.train()
    while progress.step < total_steps:
        epoch, done = divmod(progress.step, steps_per_epoch)
        samplers[0].epoch = epoch
        batches = train_loader
        if done:
            batches = accelerator.skip_first_batches(train_loader, done * args.gradient_accumulation_steps)
        for inputs in batches:
            with accelerator.accumulate(model):
                loss = model(**inputs).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_([p for _, p in named], args.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            if not accelerator.sync_gradients:
                continue
            scheduler.step()
            progress.step += 1
            value = accelerator.reduce(loss.detach().float(), "mean").item()
            if not math.isfinite(value):
                raise SystemExit(f"The loss became {value} at step {progress.step}; lower --learning_rate.")
            accelerator.log({"train/loss": value}, step=progress.step)
            bar.update()
            bar.set_postfix(epoch=epoch, loss=f"{value:.3f}")
            last = progress.step == total_steps
            if progress.step % steps_per_epoch == 0 or last:
                mean = validate(model, validation_loader, accelerator)
                accelerator.log({"validation/loss": mean}, step=progress.step)
                progress.curves.append({"step": progress.step, "train_loss": value, "validation_loss": mean})
                if mean < progress.best_loss:
                    progress.best_loss = mean
                    accelerator.unwrap_model(model).save_pretrained(
                        args.output_dir, is_main_process=accelerator.is_main_process
                    )
            if progress.step % (args.checkpointing_steps or steps_per_epoch) == 0 and not last:
                accelerator.save_state()
            if last:
                break
    bar.close()
    if accelerator.is_main_process:
        processor.save_pretrained(args.output_dir)
        seconds = time.perf_counter() - started
        results = {
            "settings": {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
            "train_examples": len(answers[0]),
            "validation_examples": len(answers[1]),
            "trained_parameters": sum(parameter.numel() for _, parameter in named),
            "processes": accelerator.num_processes,
            "encoding_seconds": round(encoding_seconds, 1),
            "seconds": round(seconds, 1),
            "examples_per_second": round((progress.step - first_step) * batch / max(seconds, 1e-9), 1),
            "best_validation_loss": progress.best_loss,
            "curves": progress.curves,
        }
        write_json(args.output_dir / "report_training_results.json", origin | results)
    accelerator.end_training()


if __name__ == "__main__":
    main()
