"""The scripts of report generation, end to end on the synthetic data set and a tiny encoder."""

import json
import os
import runpy
import subprocess
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from script_server import run_script
from tiny_models import ENCODER, TRANSFORMER
from transformers import AutoModelForMultimodalLM, AutoProcessor

from modeling_merit import MeritConfig, MeritEcgModel, MeritFeatureExtractor, MeritModel, MeritProcessor
from modeling_merit.processing.data.microvolts import NO_SAMPLE
from modeling_merit.processing.record import DISCLAIMER
from modeling_merit.processing.training.report_pairs import Answers, make_examples

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
DATA = ["--dataset", "synthetic", "--num_records", "80"]


def run(script: str, *options, cache: Path, fails: bool = False) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    done = run_script(EXAMPLES / script, *options, env=environment)
    assert (done.returncode != 0) is fails, done.stderr[-3000:]
    return done


def train(folder: Path, *options, cache: Path, **kwargs) -> subprocess.CompletedProcess:
    options = ["--batch_size", 16, "--vocab_size", 400, "--mixed_precision", "no", *options]
    return run("train_report_generation.py", *DATA, "--output_dir", folder, *options, cache=cache, **kwargs)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """One cache for all scripts, so that the synthetic records are made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def merit(tmp_path_factory, tiny_tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("merit")
    torch.manual_seed(0)
    MeritModel(MeritConfig(ecg_config=ENCODER, text_config={**TRANSFORMER, "vocab_size": 110})).save_pretrained(folder)
    MeritProcessor(MeritFeatureExtractor(), tiny_tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def report_model(merit, cache, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    train(folder, "--ecg_model", merit, "--max_train_steps", 12, "--checkpointing_steps", 6, cache=cache)
    return folder


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


@pytest.mark.slow
def test_a_table_of_ones_own_is_read_with_its_missing_samples(report_model):
    """No column of PTB-XL alone is needed for reports, and what was not recorded is masked as it is at inference."""
    signals = np.random.default_rng(0).integers(-900, 900, (2, 12, 1000), dtype=np.int16)
    signals[0, :, 700:] = signals[0, 6:] = NO_SAMPLE
    columns = {"signal": datasets.Array2D((12, 1000), "int16"), "report": datasets.Value("string")}
    rows = {"signal": list(signals), "report": ["sinus rhythm", "normal ecg"]}
    table = datasets.Dataset.from_dict(rows, datasets.Features(columns)).add_column("record_id", ["a", "b"])
    args = SimpleNamespace(tasks=["report"], dataset="mine.csv", sampling_rate=100, max_answer_tokens=20)
    processor, encoder = (
        AutoProcessor.from_pretrained(report_model),
        MeritEcgModel.from_pretrained(report_model).eval(),
    )
    batch = Answers(args, table, processor).__getitems__([0, 1])
    assert (
        not batch["ecg_mask"][0, 6:].any() and not batch["ecg_mask"][0, :, 700:].any() and batch["ecg_mask"][1].all()
    )
    with torch.no_grad():
        encoded = encoder(batch["input_values"], batch["ecg_mask"])
    kept = Answers(args, table, processor, encoder).__getitems__([0, 1])
    assert torch.allclose(kept["ecg_hidden_states"].float(), encoded.last_hidden_state, atol=1e-2)
    assert torch.equal(kept["ecg_token_mask"], encoded.token_mask) and not encoded.token_mask[0].all()
    with pytest.raises(SystemExit, match="Expected a column 'scp_codes' in mine.csv for --tasks statements"):
        make_examples(SimpleNamespace(**vars(args) | {"tasks": ["statements"]}), table)


@pytest.mark.slow
def test_training_learns_and_freezes_the_encoder(report_model, merit):
    curve = losses(report_model)
    assert sorted(curve) == list(range(1, 13))
    assert curve[12] < 0.9 * curve[1]
    before, after = load_file(merit / "model.safetensors"), load_file(report_model / "model.safetensors")
    encoder = [name for name in before if name.startswith("ecg_model.")]
    assert encoder and all(torch.equal(before[name], after[name]) for name in encoder)
    results = json.loads((report_model / "report_training_results.json").read_text())
    assert results["best_validation_loss"] == min(point["validation_loss"] for point in results["curves"])
    processor = AutoProcessor.from_pretrained(report_model)
    assert processor.num_ecg_tokens == 12 and processor.tokenizer.padding_side == "left"
    assert processor.audio_token_id == AutoModelForMultimodalLM.from_pretrained(report_model).config.ecg_token_id


def test_report_training_decays_only_weight_matrices(monkeypatch, merit, tmp_path):
    """A step without gradients shows what decays: biases, norms, queries and token embeddings stay as they are."""
    options = ["--ecg_model", merit, "--projector_type", "perceiver", "--output_dir", tmp_path, "--train_encoder"]
    options += ["--learning_rate", 0.1, "--projector_learning_rate", 0.2, "--weight_decay", 0.5]
    monkeypatch.setattr("sys.argv", list(map(str, ["train_report_generation.py", *options])))
    script = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "train_report_generation.py")))
    args = script.parse_args()
    monkeypatch.setitem(script.build.__globals__, "make_examples", lambda args, table: [((0,), "report:", "sinus")])
    model, _ = script.build(args, None)
    optimizer, projector_groups = script.make_optimizer(args, model)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == [0.2] * projector_groups + [0.1] * (len(rates) - projector_groups) and len(rates) == 4
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    moved = {name for name, value in values.items() if not (value == 1).all()}
    matrices = {name for name in values if values[name].ndim == 2 and "_proj.weight" in name}
    assert matrices and matrices <= moved and all(values[name].ndim >= 2 for name in moved)
    for ending in ("bias", "norm.weight", "embed_tokens.weight", "normalization.weight"):
        names = {name for name in values if name.endswith(ending)}
        assert names and not names & moved, ending
    for name in moved:
        torch.testing.assert_close(values[name], torch.full_like(values[name], 0.9 if "projector" in name else 0.95))


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(report_model, merit, cache, tmp_path):
    options = ["--ecg_model", merit, "--max_train_steps", 12, "--checkpointing_steps", 6]
    checkpoint = next(iter(sorted((report_model / "checkpoints").iterdir())))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
    train(tmp_path, *options, "--resume_from_checkpoint", tmp_path / "checkpoints" / checkpoint.name, cache=cache)
    whole, resumed = losses(report_model), losses(tmp_path)
    assert min(resumed) == 7
    assert resumed == {step: loss for step, loss in whole.items() if step > 6}
    weights = [load_file(folder / "model.safetensors") for folder in (report_model, tmp_path)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_all_tasks_with_lora_on_a_named_language_model(report_model, merit, cache, tmp_path):
    model = AutoModelForMultimodalLM.from_pretrained(report_model)
    model.language_model.save_pretrained(tmp_path / "lm")
    AutoProcessor.from_pretrained(report_model).tokenizer.save_pretrained(tmp_path / "lm")
    questions = [{"ecg": number, "question": "which rhythm?", "answer": "sinus rhythm"} for number in range(1, 80, 2)]
    questions += [{"ecg": [1, 2], "question": "alike?", "answer": ["yes", "no"]}]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    options = ["--language_model", tmp_path / "lm", "--train_language_model", "lora", "--lora_rank", 2]
    options += ["--tasks", "report", "statements", "question", "--questions", tmp_path / "questions.jsonl"]
    options += ["--ecg_model", merit, "--projector_type", "perceiver", "--num_ecg_tokens", 7, "--max_train_steps", 4]
    train(tmp_path / "out", *options, "--projector_warmup_steps", 2, cache=cache)
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "out" / "model.safetensors").exists()
    adapter = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all("lora_" in name or "projector" in name for name in adapter)
    assert any("lora_B" in name and weight.abs().sum() > 0 for name, weight in adapter.items())
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path / "out")
    inputs = AutoProcessor.from_pretrained(tmp_path / "out")(
        ecg=np.random.default_rng(0).normal(size=(12, 1000)).astype(np.float32),
        text=loaded.config.prompts["question"].format(ecg="<|ecg|>", question="which rhythm?"),
        sampling_rate=100,
        leads=list(loaded.config.ecg_config.leads),
        units="mV",
        return_tensors="pt",
    )
    written = loaded.generate(**inputs, max_new_tokens=3, min_new_tokens=3)
    assert written.shape[1] == inputs["input_ids"].shape[1] + 3


@pytest.mark.slow
def test_a_bad_line_of_questions_is_named(merit, cache, tmp_path):
    (tmp_path / "questions.jsonl").write_text('{"ecg": 1, "question": "rhythm?", "answer": "sinus"}\n{"ecg": 2}\n')
    options = ["--tasks", "question", "--questions", tmp_path / "questions.jsonl", "--ecg_model", merit]
    done = train(tmp_path / "out", *options, cache=cache, fails=True)
    assert "line 2 of" in done.stderr and "question" in done.stderr
    done = train(tmp_path / "out", "--tasks", "question", "--ecg_model", merit, cache=cache, fails=True)
    assert "--questions FILE together with --tasks question" in done.stderr


@pytest.mark.slow
def test_generate_report_from_files(report_model, cache, tmp_path):
    signal, leads = np.random.default_rng(0).normal(size=(1000, 12)), "I,II,III,aVR,aVL,aVF,V1,V2,V3,V4,V5,V6"
    for name in ("a", "b", "c"):
        np.savetxt(tmp_path / f"{name}.csv", signal, delimiter=",", header=leads, comments="", fmt="%.3f")
    (tmp_path / "broken.xml").write_text("<not an ecg>")
    facts = ["--model", report_model, "--sampling_rate", 100, "--units", "mV", "--batch_size", 2]
    paths = [tmp_path / f"{name}.csv" for name in ("a", "b", "c")]
    options = [*facts, "--format", "json", "--output", tmp_path / "out.json", "--max_new_tokens", 10]
    run("generate_report.py", *paths, *options, cache=cache)
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["notice"] == DISCLAIMER
    assert [Path(result["file"]).name for result in content["results"]] == ["a.csv", "b.csv", "c.csv"]
    assert all(result["notice"] == DISCLAIMER for result in content["results"])
    assert len({result["text"] for result in content["results"]}) == 1  # equal signals, greedy decoding, two batches
    done = run("generate_report.py", paths[0], tmp_path / "broken.xml", *facts, cache=cache, fails=True)
    assert "broken.xml" in done.stderr and "a.csv" in done.stdout and DISCLAIMER in done.stdout
    done = run("generate_report.py", paths[0], *facts, "--max_new_tokens", 600, cache=cache, fails=True)
    assert "at most 512 new tokens" in done.stderr


@pytest.mark.slow
def test_evaluate_reports_writes_tidy_rows(report_model, merit, cache, tmp_path):
    output = tmp_path / "results.json"
    runs = [f"joint={report_model}", f"again={report_model}"]
    options = ["--runs", *runs, "--retrieval_model", merit, "--n_resamples", 50, "--max_new_tokens", 24]
    run("evaluate_reports.py", *DATA, *options, "--output", output, cache=cache)
    written = json.loads(output.read_text())
    rows = {(row["run"], row["metric"]): row for row in written}
    runs = {"joint", "again", "shuffled_ecg", "zero_ecg", "most_frequent_report", "nearest_report"}
    assert {run for run, _ in rows} == runs
    keys = {"run", "metric", "value", "ci_low", "ci_high", "n", "command", "commit"}
    keys |= {"dataset", "split", "seed", "num_beams"}
    assert all(set(row) == keys and row["ci_low"] <= row["ci_high"] for row in written)
    for metric in ("bleu_4", "rougeL", "meteor_exact_stem", "cider_d", "statement_f1", "hallucination_rate"):
        assert rows["joint", metric]["value"] == rows["again", metric]["value"]
    assert rows["most_frequent_report", "empty_rate"]["value"] == 0.0
    paired = json.loads((tmp_path / "results_paired.json").read_text())
    assert {pair["run_a"] for pair in paired} == {"joint"}
    pairs = {(pair["run_b"], pair["metric"]): pair for pair in paired}
    assert pairs["again", "rougeL"]["difference"] == 0.0 and pairs["again", "rougeL"]["p"] == 1.0
    content = json.loads((tmp_path / "results_examples.json").read_text())
    assert set(content["examples"][0]) == {"ecg_id", "recorded"} | runs
    assert "not for clinical use" in content["notice"]


def test_rows_of_other_runs_and_splits_stay(report_checkpoint, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    main = runpy.run_path(str(EXAMPLES / "evaluate_reports.py"))["main"]
    monkeypatch.setitem(main.__globals__, "generate", lambda folder, ecgs, languages, args: ["ecg"] * len(languages))
    output = tmp_path / "results.json"
    former = {"run": "joint", "metric": "rougeL", "value": 0.1, "ci_low": 0.0, "ci_high": 0.2}  # PTB-XL, test split
    output.write_text(json.dumps([former, former | {"run": "older"}]))
    command = ["e", *DATA, "--max_records", "3", "--n_resamples", "5", "--output", str(output)]
    for name, split in (("joint", "test"), ("masked", "test"), ("joint", "validation")):
        monkeypatch.setattr("sys.argv", [*command, "--split", split, "--runs", f"{name}={report_checkpoint}"])
        main()
    rows = [row for row in json.loads(output.read_text()) if row["metric"] == "rougeL"]
    assert [row["value"] for row in rows if (row["run"], row["dataset"]) == ("joint", "ptb_xl")] == [0.1]
    rows = [row for row in rows if (row["run"], row["dataset"]) != ("joint", "ptb_xl")]
    scored = {(row["run"], row["split"]): row["value"] for row in rows}
    assert {("older", "test"), ("joint", "test"), ("masked", "test"), ("joint", "validation")} < scored.keys()
    assert len(scored) == len(rows) and scored["joint", "test"] != 0.1 == scored["older", "test"]
    pairs = json.loads((tmp_path / "results_paired.json").read_text())
    firsts = {(pair["run_a"], pair["split"]) for pair in pairs}
    assert firsts == {("joint", "test"), ("masked", "test"), ("joint", "validation")}


def test_a_few_records_do_not_replace_the_results(report_checkpoint, monkeypatch, capsys):
    parse = runpy.run_path(str(EXAMPLES / "evaluate_reports.py"))["parse_args"]
    monkeypatch.setattr("sys.argv", ["e", *DATA, "--max_records", "3", "--runs", f"a={report_checkpoint}"])
    with pytest.raises(SystemExit):
        parse()
    assert "an --output of its own with --max_records" in capsys.readouterr().err


def test_a_language_without_training_reports_has_no_nearest(checkpoint):
    nearest = runpy.run_path(str(EXAMPLES / "evaluate_reports.py"))["nearest_reports"]
    ecgs = {"input_values": torch.randn(2, 12, 500), "ecg_mask": torch.ones(2, 12, 500, dtype=torch.bool)}
    pool = {"English": {"sinus rhythm": 1}, "Swedish": {}}
    assert nearest(checkpoint, ecgs, ["Swedish", "English"], pool, "cpu", 8) == ["", "sinus rhythm"]
