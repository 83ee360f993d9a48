"""Teach a language model to write reports from the tokens of a MERIT ECG encoder.

    accelerate launch examples/train_report_generation.py --ecg_model merit-ecg --data_dir PTB_XL_FOLDER \
        --output_dir merit-report

The encoder stays frozen and each ECG is encoded once. With `--language_model` (Hub id or folder) the projector is
warmed up first, then LoRA adapters or the whole language model join in; without it a small one is trained from
scratch, with its own tokenizer. The loss is that of the answers. Trains on folds 1-8, keeps the model of
the lowest loss on fold 9, and goes on exactly where an interrupted run saved with `--resume_from_checkpoint latest`.
What it writes is not for clinical use.
"""

import shutil
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from modeling_merit import MeritEcgModel, MeritFeatureExtractor, MeritForConditionalGeneration, MeritProcessor
from modeling_merit.configuration_merit import PROMPTS
from modeling_merit.processing.benchmark.options import check_sizes, model_source, option_parser
from modeling_merit.processing.benchmark.results import data_fingerprint, provenance, write_json
from modeling_merit.processing.probing.embeddings import weights_fingerprint
from modeling_merit.processing.training.checkpoints import check_output_dir
from modeling_merit.processing.training.optimizer_groups import parameter_groups
from modeling_merit.processing.training.publishing import PUSH_OPTIONS, check_push, push_output
from modeling_merit.processing.training.report_pairs import Answers, LengthBatches, load_reports, make_examples
from modeling_merit.processing.training.run import (
    RUN_OPTIONS,
    cosine_schedule,
    count_steps,
    settings,
    start,
    train,
)
from modeling_merit.processing.training.tokenizers import ECG_TOKEN, train_byte_bpe

SMALL_LM = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384}


def parse_args():
    parser = option_parser(
        __doc__,
        *RUN_OPTIONS,
        *PUSH_OPTIONS,
        data_dir={"required": False},
        epochs={"default": 10},
        batch_size={"default": 64, "help": "Examples per process and forward pass."},
        warmup_ratio={"default": 0.05},
        output_dir={"required": False, "default": Path("merit-report")},
        tasks={"default": ["report"], "choices": tuple(PROMPTS), "help": "What the prompts ask for."},
    )
    add = parser.add_argument
    add("--ecg_model", type=model_source, required=True, help="Folder or Hub id of any MERIT checkpoint.")
    add("--random_encoder", action="store_true", help="A control: the encoder's shape with random weights.")
    add(
        "--language_model",
        type=model_source,
        help="Causal language model, Hub id or folder; when absent a small one from scratch.",
    )
    add("--train_language_model", default="full", choices=("full", "lora", "none"))
    add("--lora_rank", type=int, default=16)
    add("--train_encoder", action="store_true", help="Tune the encoder, too; then nothing is encoded in advance.")
    add("--projector_type", default="mlp", choices=("mlp", "perceiver"))
    add("--num_ecg_tokens", type=int, default=12)
    add("--questions", type=Path, help='JSONL of {"ecg": ecg_id or list of them, "question": ..., "answer": ...}.')
    add("--vocab_size", type=int, default=2000, help="Tokens of the tokenizer trained when no model is named.")
    add("--max_answer_tokens", type=int, default=128, help="Longer answers are cut off.")
    add("--projector_warmup_steps", type=int, help="Projector alone; default: 10 %% of the steps with a trained LM.")
    add("--learning_rate", type=float, help="Of the language model; default: 1e-3 from scratch, else 2e-4.")
    add("--projector_learning_rate", type=float, default=1e-3)
    args = parser.parse_args()
    if ("question" in args.tasks) != (args.questions is not None):
        parser.error("Expected --questions FILE together with --tasks question, got one without the other.")
    check_sizes(parser, args)
    if args.push_to_hub and args.train_language_model == "lora":
        parser.error(
            "Expected --train_language_model full or none with --push_to_hub, got lora: adapters name the folder of "
            "their base on this machine, and would not load from the Hub."
        )
    check_output_dir(parser, args)
    check_push(parser, args)
    return args


def build(args, table):
    """Return model and processor. Everything random in them follows from the seed."""
    ecg_model = MeritEcgModel.from_pretrained(args.ecg_model)
    if args.random_encoder:
        ecg_model = MeritEcgModel(ecg_model.config)
    if args.language_model:
        # Left: the prompts of a batch end together, where the answers begin.
        tokenizer = AutoTokenizer.from_pretrained(args.language_model, padding_side="left")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        language_model = AutoModelForCausalLM.from_pretrained(args.language_model, dtype=torch.float32)
    else:
        tokenizer = train_byte_bpe(
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
    except OSError:  # an encoder saved without one
        extractor = MeritFeatureExtractor(leads=ecg_model.config.leads, sampling_rate=ecg_model.config.sampling_rate)
    processor = MeritProcessor(extractor, tokenizer, num_ecg_tokens=args.num_ecg_tokens)
    model.requires_grad_(False)
    if args.train_language_model == "lora":
        return add_lora(model, args), processor  # which says what is trained
    if args.train_language_model == "full":
        model.language_model.requires_grad_(True)
    model.projector.requires_grad_(True)
    if args.train_encoder:
        model.ecg_model.requires_grad_(True)
    return model, processor


def add_lora(model, args):
    """Return the model with adapters on every linear layer of its language model. They are saved alone, beside the
    `base` they belong to."""
    from peft import LoraConfig

    base = args.output_dir / "base"
    if PartialState().is_main_process and not (args.resume_from_checkpoint and base.is_dir()):
        partial = base.with_name("base.partial")
        for former in (partial, base):
            shutil.rmtree(former, ignore_errors=True)
        model.save_pretrained(partial)
        partial.rename(base)
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


def make_optimizer(args, model):
    """Return AdamW, and how many of its parameter groups, the first ones, are the projector's."""
    rate = args.learning_rate or (2e-4 if args.language_model else 1e-3)
    projector = parameter_groups(
        model, lambda name: args.projector_learning_rate if "projector" in name else None, args.weight_decay
    )
    others = parameter_groups(model, lambda name: None if "projector" in name else rate, args.weight_decay)
    return torch.optim.AdamW([*projector, *others], betas=(0.9, 0.95)), len(projector)


def warm_up_projector(args, scheduler, total_steps, groups):
    """Keep the learning rate of all but the first groups, the projector's, at zero in the first steps."""
    alone = args.projector_warmup_steps
    if alone is None:
        alone = total_steps // 10 if args.language_model else 0
    cosine = scheduler.lr_lambdas[0]
    held = [lambda step: cosine(step) if step >= alone else 0.0] * (len(scheduler.lr_lambdas) - groups)
    scheduler.lr_lambdas[groups:] = held


def validate(model, loader, accelerator):
    """Return the mean loss of an answer token."""
    total = torch.zeros(2, device=accelerator.device, dtype=torch.float64)
    for batch in loader:
        tokens = (batch["labels"][:, 1:] >= 0).sum()
        total += torch.stack([model(**batch).loss.double() * tokens, tokens.double()])
    loss, tokens = accelerator.reduce(total, "sum").tolist()
    return {"loss": loss / tokens}


def main():
    args = parse_args()
    origin = provenance(seed=args.seed)  # now: the code on disk may change during a long run
    # Without absent leads, the vector that stands for them has no gradient.
    accelerator = start(args, (), unused_parameters=True)
    with accelerator.main_process_first():
        tables = [load_reports(args, split) for split in ("train", "validation")]
        set_seed(args.seed)
        model, processor = build(args, tables[0])
    model.to(accelerator.device)
    encoder_fingerprint = weights_fingerprint(model.ecg_model)
    started = time.perf_counter()
    answers = [Answers(args, table, processor, None if args.train_encoder else model.ecg_model) for table in tables]
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
    data = {
        "data_fingerprint": data_fingerprint(part.view.signals(range(len(part.view))) for part in answers),
        "examples_fingerprint": data_fingerprint(
            np.array([*row, *prompt, *answer]) for part in answers for row, prompt, answer in part.examples
        ),
        "encoder_fingerprint": encoder_fingerprint,
        "train_examples": len(answers[0]),
        "validation_examples": len(answers[1]),
    }
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    optimizer, projector_groups = make_optimizer(args, model)
    model, optimizer, *loaders = accelerator.prepare(model, optimizer, *loaders)
    scheduler = cosine_schedule(args, optimizer, loaders[0])
    warm_up_projector(args, scheduler, count_steps(args, loaders[0])[0], projector_groups)
    outcome = train(
        model,
        optimizer,
        scheduler,
        loaders[0],
        accelerator,
        args,
        processor,
        project="merit-report",
        metrics=("loss",),
        validate=lambda evaluated: validate(evaluated, loaders[1], accelerator),
        set_epoch=lambda epoch: setattr(samplers[0], "epoch", epoch),
        unit="example",
        data=data,
        any_processes=False,  # batches of similar length are drawn for one batch size
    )
    outcome["curves"] = [
        {"step": point["step"]} | {f"{part}_loss": point[part]["loss"] for part in ("train", "validation")}
        for point in outcome["curves"]
    ]
    if accelerator.is_main_process:
        about = data | {"settings": settings(args), "trained_parameters": trained}
        about |= {"encoding_seconds": round(encoding_seconds, 1)}
        write_json(args.output_dir / "report_training_results.json", origin | about | outcome)
        push_output(args, origin | about)
    accelerator.wait_for_everyone()  # a process that leaves early takes the connections of the others with it


if __name__ == "__main__":
    main()
