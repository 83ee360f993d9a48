"""The data of report generation: splits, prompts with their answers, and batches of both."""

import json
import math
from functools import cache

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from modeling_merit.configuration_merit import PROMPTS

from ..benchmark.label_sets import load_statements
from ..data import SignalView, normalize_report
from ..data.microvolts import mask_recorded
from ..metrics.statements import report_language
from .pairs import load_split, read_signals
from .tokenizers import ECG_TOKEN


def load_reports(args, split):
    """Return one split of the data set, without the records that have no word of a report."""
    table = load_split(args, split)
    words = (any(map(str.isalnum, normalize_report(report or ""))) for report in table["report"])
    table = table.select([row for row, any_word in enumerate(words) if any_word])
    if not len(table):
        raise SystemExit(f"Expected ECGs with reports in the {split} split of {args.dataset}, got none.")
    return table


def read_inputs(view, rows, sampling_rate, extractor):
    """Return signals of a table as `input_values`, (rows, 12, samples) float32, and where not all was recorded
    `ecg_mask` of that shape."""
    signals = read_signals(view, rows, sampling_rate, extractor)
    mask = mask_recorded(signals)
    inputs = {"input_values": torch.from_numpy(extractor.normalize(signals, mask))}
    return inputs if mask is None else inputs | {"ecg_mask": torch.from_numpy(mask)}


def id_column(table):
    """Return the column of a table with the ids of its records; only that of PTB-XL has a name of its own."""
    return "ecg_id" if "ecg_id" in table.column_names else "record_id"


def make_examples(args, table):
    """Return (rows of the ECGs, prompt, answer) of every example of every task."""
    needed = {"report": "report", "statements": "scp_codes", "question": id_column(table)}
    wanted = [needed[task] for task in args.tasks]
    if missing := [name for name in wanted if name not in table.column_names]:
        raise SystemExit(f"Expected a column {missing[0]!r} in {args.dataset} for --tasks {' '.join(args.tasks)}.")
    examples, columns = [], table.select_columns(wanted).to_dict()
    if "report" in args.tasks:
        for row, report in enumerate(columns["report"]):
            prompt = PROMPTS["report"].format(ecg=ECG_TOKEN, language=report_language(report))
            examples.append(((row,), prompt, normalize_report(report)))
    if "statements" in args.tasks:
        known, prompt = load_statements(), PROMPTS["statements"].format(ecg=ECG_TOKEN)
        for row, codes in enumerate(columns["scp_codes"]):
            names = [known[code].description for code in codes["code"] if code in known]
            if names:
                examples.append(((row,), prompt, "; ".join(names)))
    if "question" in args.tasks:
        rows = {ecg_id: row for row, ecg_id in enumerate(columns[id_column(table)])}
        for number, line in enumerate(args.questions.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                item = json.loads(line)
                ids = item["ecg"] if isinstance(item["ecg"], list) else [item["ecg"]]
                answer = ", ".join(item["answer"]) if isinstance(item["answer"], list) else item["answer"]
                prompt = PROMPTS["question"].format(ecg=ECG_TOKEN * len(ids), question=item["question"])
            except (ValueError, KeyError, TypeError) as error:
                raise SystemExit(
                    f'Expected {{"ecg": id, "question": ..., "answer": ...}} in line {number} of {args.questions}, '
                    f"got {line[:80]!r} ({error})."
                ) from error
            if all(ecg_id in rows for ecg_id in ids):  # else it belongs to another split
                examples.append((tuple(rows[ecg_id] for ecg_id in ids), prompt, answer))
    return examples


class Answers(Dataset):
    """Whole batches of prompts with their answers; ECGs as signals, or as the hidden states of a frozen encoder."""

    def __init__(self, args, table, processor, ecg_model=None):
        self.view, self.processor, self.rate = SignalView(table), processor, args.sampling_rate
        tokenizer, self.examples = processor.tokenizer, []
        places = processor.ecg_token * processor.num_ecg_tokens
        encode = cache(lambda prompt: tokenizer(prompt.replace(ECG_TOKEN, places))["input_ids"])
        for rows, prompt, answer in make_examples(args, table):
            ids = tokenizer(" " + answer, add_special_tokens=False)["input_ids"][: args.max_answer_tokens - 1]
            self.examples.append((rows, encode(prompt), [*ids, tokenizer.eos_token_id]))
        if not self.examples:
            raise SystemExit(f"Expected examples of the tasks {', '.join(args.tasks)} in every split, got none.")
        self.hidden_states = None if ecg_model is None else self._encode(ecg_model)

    @torch.no_grad()
    def _encode(self, ecg_model, size=128):
        """Return hidden states (ecgs, positions, width) and which positions were recorded, (ecgs, positions)."""
        ecg_model.eval()
        extractor, hidden, masks = self.processor.feature_extractor, [], []
        for start in tqdm(range(0, len(self.view), size), desc="Encoding ECGs", unit="batch"):
            rows = range(start, min(start + size, len(self.view)))
            inputs = read_inputs(self.view, rows, self.rate, extractor)
            encoded = ecg_model(**{name: part.to(ecg_model.device) for name, part in inputs.items()})
            hidden.append(encoded.last_hidden_state.half().cpu())
            recorded = torch.ones(hidden[-1].shape[:2], dtype=torch.bool)
            masks.append(recorded if encoded.token_mask is None else encoded.token_mask.cpu())
        return torch.cat(hidden), torch.cat(masks)

    def __len__(self):
        return len(self.examples)

    def __getitems__(self, indices):
        chosen = [self.examples[index] for index in indices]
        width = max(len(prompt) + len(answer) for _, prompt, answer in chosen)
        ids = torch.full((len(chosen), width), self.processor.tokenizer.pad_token_id)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for row, (_, prompt, answer) in enumerate(chosen):
            end = len(prompt) + len(answer)
            ids[row, :end], labels[row, len(prompt) : end] = torch.tensor(prompt + answer), torch.tensor(answer)
            mask[row, :end] = 1
        rows = [row for example_rows, _, _ in chosen for row in example_rows]
        if self.hidden_states is not None:
            ecgs = {"ecg_hidden_states": self.hidden_states[0][rows], "ecg_token_mask": self.hidden_states[1][rows]}
        else:
            ecgs = read_inputs(self.view, rows, self.rate, self.processor.feature_extractor)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, **ecgs}


class LengthBatches:
    """Batches of answers of similar length, in an order that follows from seed and epoch alone.

    Set `epoch` before each epoch. There is no `set_epoch`, for Accelerate would call it with a count of its own, which
    starts at zero again in a resumed run.
    """

    drop_last = False

    def __init__(self, examples, batch_size, seed, shuffle):
        self.lengths = np.array([len(prompt) + len(answer) for _, prompt, answer in examples])
        self.batch_size, self.seed, self.shuffle, self.epoch = batch_size, seed, shuffle, 0

    def __len__(self):
        return math.ceil(len(self.lengths) / self.batch_size)

    def __iter__(self):
        rng, rows = np.random.default_rng([self.seed, self.epoch]), np.arange(len(self.lengths))
        if self.shuffle:
            rng.shuffle(rows)
            # Sorting all would give every epoch the same batches; blocks of 50 batches keep most of the speed.
            blocks = np.array_split(rows, math.ceil(len(self) / 50))
            rows = np.concatenate([block[np.argsort(self.lengths[block], kind="stable")] for block in blocks])
        batches = [rows[start : start + self.batch_size].tolist() for start in range(0, len(rows), self.batch_size)]
        # The last batch, which may be short, stays the last: Accelerate relies on it.
        order = [*rng.permutation(len(batches) - 1), len(batches) - 1] if self.shuffle else range(len(batches))
        for batch in order:
            yield batches[batch]


__all__ = ["Answers", "LengthBatches", "id_column", "load_reports", "make_examples", "read_inputs"]
