"""Pipelines: every input gives the scores of `processing.inference`, with the package and from the folder alone."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from loopback_hub import LoopbackHub
from tiny_models import build, ecg_config
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, TextIteratorStreamer, pipeline
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import KeyDataset

from modeling_merit import MeritEcgModel, MeritFeatureExtractor, MeritForEcgClassification
from modeling_merit.pipelines_merit import (
    MeritEcgFeatureExtractionPipeline,
    MeritZeroShotEcgClassificationPipeline,
    pad_ecgs,
)
from modeling_merit.processing import EcgRecord, read_ecg
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.inference import embed_ecgs, generate_reports, load_checkpoint, score_prompts
from modeling_merit.processing.record import DISCLAIMER
from modeling_merit.processing.writers import write_ecg
from modeling_merit.tasks_merit import OF_TRANSFORMERS, TASKS, tasks_of

REPOSITORY = Path(__file__).resolve().parent.parent
CHECKPOINT = str(REPOSITORY / "hub_cards" / "merit-ecg")
LABELS = ["vorhofflimmern", "sinusrhythmus", "linksschenkelblock"]
CLASSES = {"AFIB": ["vorhofflimmern", "atrial fibrillation"], "SR": "sinusrhythmus", "LBBB": ["linksschenkelblock"]}
NAMES = ("sinus_rhythm", "atrial_fibrillation", "left_bundle_branch_block")


def record(name: str = NAMES[0], seed: int = 0, seconds: float = 10.0) -> EcgRecord:
    parts = [simulate_ecg(name, seed=seed + part) for part in range(-(-int(seconds) // 10))]
    signal = np.concatenate([part.signal for part in parts], axis=1)[:, : round(seconds * parts[0].sampling_rate)]
    return EcgRecord(signal, parts[0].sampling_rate, parts[0].leads)


def facts(ecg: EcgRecord) -> dict:
    return {"sampling_rate": ecg.sampling_rate, "leads": list(ecg.leads), "units": "mV"}


def by_label(rows: list[dict], value: str = "score") -> dict[str, float]:
    return {row["label"]: row[value] for row in rows}


def assert_same(rows: list[dict], others: list[dict], atol: float = 1e-6) -> None:
    assert [sorted(row) for row in rows] == [sorted(row) for row in others]
    for name in rows[0].keys() - {"label"}:
        found, expected = by_label(rows, name), by_label(others, name)
        assert found.keys() == expected.keys()
        np.testing.assert_allclose([found[label] for label in expected], list(expected.values()), atol=atol)


@pytest.fixture(scope="module")
def ecgs() -> list[EcgRecord]:
    return [record(name, seed, seconds) for seed, (name, seconds) in enumerate(zip(NAMES, (10, 7.3, 5)))]


@pytest.fixture(scope="module")
def classify():
    return pipeline("zero-shot-ecg-classification", model=CHECKPOINT, candidate_labels=LABELS)


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory) -> str:
    """A classifier with its feature extractor, as `examples/finetune.py` saves it."""
    folder = tmp_path_factory.mktemp("classifier")
    config = ecg_config()
    config.id2label = {0: "NORM", 1: "MI", 2: "STTC"}
    config.label2id = {name: index for index, name in config.id2label.items()}
    config.problem_type = "multi_label_classification"
    build(MeritForEcgClassification, config).save_pretrained(folder)
    MeritFeatureExtractor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory) -> Path:
    """The folder that is published, as `make hub` makes it."""
    folder = tmp_path_factory.mktemp("hub") / "merit-ecg"
    command = [sys.executable, "hub_cards/make_hub_folder.py", "--model", CHECKPOINT, "--output", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    return folder


def without_package(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Run a script in a process in which the package is not installed, and no Hub is asked."""
    script = "import sys\nsys.modules['modeling_merit'] = None\n" + script
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = kept | {"HF_HUB_OFFLINE": "1"} | environment
    return subprocess.run(command, capture_output=True, text=True, env=environment)


class TestTasks:
    def test_the_package_registers_them(self):
        assert set(TASKS) <= set(PIPELINE_REGISTRY.get_supported_tasks())
        for task in TASKS:
            assert PIPELINE_REGISTRY.supported_tasks[task]["impl"].__name__ == TASKS[task][0]

    def test_a_saved_checkpoint_names_them(self, hub_folder, classifier_folder, report_checkpoint):
        first = {}
        for folder in (hub_folder, classifier_folder, report_checkpoint):
            config = json.loads(Path(folder, "config.json").read_text())
            assert set(config["custom_pipelines"]) == set(tasks_of(config["model_type"], config["architectures"]))
            for entry in config["custom_pipelines"].values():
                module, name = entry["impl"].split(".")
                assert f"class {name}(" in Path(folder, f"{module}.py").read_text()
            assert not {"custom_pipelines", "auto_map"} & config.get("ecg_config", {}).keys()
            first[config["model_type"]] = next(iter(AutoConfig.from_pretrained(folder).custom_pipelines))
        assert first == {
            "merit": "zero-shot-ecg-classification",
            "merit_ecg_encoder": "ecg-classification",
            "merit_generation": "ecg-to-text",
        }

    def test_the_task_that_is_not_stated(self, classifier_folder, report_checkpoint):
        for folder in (CHECKPOINT, classifier_folder, report_checkpoint):
            pipe = pipeline(model=folder)
            assert type(pipe) is PIPELINE_REGISTRY.supported_tasks[pipe.task]["impl"]
            assert pipe.task == next(iter(pipe.model.config.custom_pipelines))

    @pytest.mark.parametrize("task", OF_TRANSFORMERS)
    def test_no_name_of_a_file_is_taken_for_a_text(self, task, hub_folder, report_checkpoint, ecgs, tmp_path):
        """Neither with the package nor without: an error, or with `trust_remote_code` the result for the ECG."""
        folder = str(hub_folder) if task == "feature-extraction" else report_checkpoint
        path = write_ecg(ecgs[0], tmp_path / "record.npz") or tmp_path / "record.npz"
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            pipeline(task, model=folder)
        pipe = pipeline(task, model=folder, trust_remote_code=True)
        options = {"max_new_tokens": 5} if task == "any-to-any" else {}
        own = pipeline(OF_TRANSFORMERS[task], model=folder)
        assert pipe(str(path), **options) == own(ecgs[0], **options)
        with pytest.raises((ValueError, OSError)):
            pipe("sinus rhythm")

    def test_tasks_of_other_authors_are_kept(self, tmp_path):
        config = AutoConfig.from_pretrained(CHECKPOINT)
        entry = {"impl": "other.Other", "pt": ["AutoModel"]}
        config.custom_pipelines = {"other-task": entry, "ecg-feature-extraction": {"impl": "wrong.Wrong"}}
        config.save_pretrained(tmp_path)
        loaded = AutoConfig.from_pretrained(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text())["custom_pipelines"]
        assert saved["other-task"] == entry == loaded.custom_pipelines["other-task"]
        assert "other-task" in loaded.custom_pipelines and "wrong.Wrong" not in str(saved)
        assert loaded.to_dict() == AutoConfig.from_pretrained(tmp_path).to_dict()

    def test_auto_classes_of_a_classifier(self, classifier_folder):
        assert type(AutoModelForSequenceClassification.from_pretrained(classifier_folder)) is MeritForEcgClassification
        assert type(AutoModel.from_pretrained(classifier_folder)) is MeritEcgModel

    def test_a_pipeline_is_saved_and_loaded(self, classify, ecgs, tmp_path):
        classify.save_pretrained(tmp_path)
        classify.processor.save_pretrained(tmp_path)
        assert_same(pipeline(model=str(tmp_path))(ecgs[0], candidate_labels=LABELS), classify(ecgs[0]))


class TestInputs:
    def test_all_kinds_of_an_ecg_give_the_same(self, classify, ecgs, tmp_path):
        ecg = ecgs[1]
        for suffix in (".hea", ".npz"):
            write_ecg(ecg, tmp_path / f"ecg{suffix}")
        expected = classify(ecg)
        array, said = ecg.signal, facts(ecg)
        for same in (
            classify(array, **said),
            classify(torch.tensor(array), **said),
            classify(array.tolist(), **said),
            classify({"signal": array.tolist(), **said}),
            classify({"array": array} | {"sampling_rate": ecg.sampling_rate}, leads=said["leads"], units="mV"),
            classify(1000 * array, **said | {"units": "uV"}),
            classify(str(tmp_path / "ecg.npz")),
        ):
            assert_same(same, expected)
        assert_same(classify(tmp_path / "ecg.hea"), expected, atol=0.02)  # which stores whole microvolts

    def test_lists_and_data_sets_give_one_result_per_ecg(self, classify, ecgs):
        from datasets import Dataset

        expected = [classify(ecg) for ecg in ecgs]
        rows = [{"signal": ecg.signal.tolist(), **facts(ecg)} for ecg in ecgs]
        data_set = Dataset.from_list([{"ecg": row} for row in rows])
        for result in (
            classify(ecgs),
            classify(tuple(ecgs)),
            list(classify(ecg for ecg in ecgs)),
            list(classify(KeyDataset(data_set, "ecg"))),
            list(classify(KeyDataset(data_set, "ecg"), batch_size=2)),
        ):
            assert len(result) == 3
            for rows, others in zip(result, expected):
                assert_same(rows, others, atol=1e-5)
        assert classify([]) == []
        stacked = np.stack([ecgs[0].signal[:, :2500]] * 2)
        assert len(classify(stacked, **facts(ecgs[0]))) == 2

    @pytest.mark.parametrize("batch_size", [2, 3, 8])
    def test_batches_of_ecgs_of_other_lengths(self, classify, ecgs, batch_size):
        ecgs = [*ecgs, ecgs[0]]
        for rows, alone in zip(classify(ecgs, batch_size=batch_size), [classify(ecg) for ecg in ecgs]):
            assert_same(rows, alone, atol=1e-5)

    def test_the_samples_added_to_a_batch_are_masked(self):
        items = [
            {"input_values": torch.ones(1, 2, n), "ecg_mask": torch.ones(1, 2, n, dtype=torch.bool), "start_s": n}
            for n in (3, 5)
        ]
        batch = pad_ecgs(items)
        assert batch["start_s"] == [3, 5] and batch["ecg_mask"].dtype == torch.bool
        assert batch["ecg_mask"].sum().item() == batch["input_values"].sum().item() == 16
        assert not batch["ecg_mask"][0, :, 3:].any()

    def test_missing_samples_and_other_leads_are_taken(self, classify, ecgs):
        signal = np.concatenate([ecgs[0].signal, ecgs[0].signal[:1]])
        signal[0, :50] = np.nan
        with pytest.warns(UserWarning, match="dropped: X"):
            rows = classify(EcgRecord(signal, ecgs[0].sampling_rate, (*ecgs[0].leads, "X")))
        assert np.isfinite(list(by_label(rows).values())).all() and rows != classify(ecgs[0])
        assert classify.feature_extractor.nan_policy == "raise"  # that of the user is left as it was

    @pytest.mark.parametrize(
        ("ecg", "arguments", "error", "message"),
        [
            (np.zeros((12, 1000)), {}, ValueError, "does not say its `sampling_rate`, `leads`, `units`"),
            ({"ecg": [[0.0]]}, {}, ValueError, "one of 'signal' or 'array'.* got 'ecg'"),
            ({}, {}, ValueError, "got an empty one"),
            (np.zeros((12, 1000)), {"rate": 100}, TypeError, "got rate"),
            (np.zeros((12, 1000)), {"window_seconds": 0}, ValueError, "`window_seconds` above 0, got 0"),
            (np.zeros((12, 1000)), {"step_seconds": 5}, ValueError, "`window_seconds` beside `step_seconds`"),
            ("absent.hea", {}, ValueError, "absent.hea"),
            ("sinus rhythm", {}, ValueError, "sinus rhythm"),
            (
                {"signal": "record.hea", "sampling_rate": 1, "leads": ["I"], "units": "mV"},
                {},
                ValueError,
                "is the path",
            ),
        ],
    )
    def test_what_is_no_ecg_is_refused(self, classify, ecg, arguments, error, message):
        with pytest.raises(error, match=message):
            classify(ecg, **arguments)


class TestWindows:
    def test_the_mean_of_the_windows_counts(self, classify):
        ecg = record(NAMES[1], seconds=47)
        result = classify(ecg, window_seconds=10, return_windows=True, batch_size=3)
        assert [(part["start_s"], part["stop_s"]) for part in result["windows"]] == [
            (s, s + 10) for s in range(0, 40, 10)
        ]
        for part in result["windows"]:
            assert_same(part["scores"], classify(ecg.crop(part["start_s"], part["stop_s"])), atol=1e-5)
        means = np.mean([[by_label(part["scores"])[name] for name in LABELS] for part in result["windows"]], axis=0)
        np.testing.assert_allclose([by_label(result["scores"])[name] for name in LABELS], means, atol=1e-6)
        steps = classify(ecg, window_seconds=10, step_seconds=5, return_windows=True)["windows"]
        assert [part["start_s"] for part in steps] == list(range(0, 36, 5))
        assert_same(steps[2]["scores"], result["windows"][1]["scores"], atol=1e-5)

    @pytest.mark.parametrize("suffix", [".hea", ".npz"])
    def test_files_that_are_streamed_and_files_that_are_not(self, classify, tmp_path, suffix):
        ecg = record(seconds=35)
        write_ecg(ecg, tmp_path / f"long{suffix}")
        ecg = read_ecg(tmp_path / f"long{suffix}")
        result = classify(str(tmp_path / f"long{suffix}"), window_seconds=10, return_windows=True)
        assert [part["start_s"] for part in result["windows"]] == [0, 10, 20]
        assert_same(result["scores"], classify(ecg, window_seconds=10), atol=1e-5)

    def test_a_long_ecg_is_refused_or_cut_without_windows(self, classify):
        ecg = record(seconds=40)
        with pytest.raises(ValueError, match="Expected 2.5 to 30 s, got 40 s .*`window_seconds=10`"):
            classify(ecg)
        assert_same(classify(ecg, truncation=True), classify(ecg.crop(0, 30)))

    def test_a_short_ecg_is_one_window(self, classify, ecgs, tmp_path):
        write_ecg(ecgs[2], tmp_path / "short.npz")
        assert classify(ecgs[2], window_seconds=10) == classify(ecgs[2])
        assert_same(classify(str(tmp_path / "short.npz"), window_seconds=10), classify(ecgs[2]))

    def test_windows_that_cannot_be_used_are_left_out(self, classify):
        ecg = record(seconds=30)
        signal = ecg.signal.copy()
        middle = slice(round(10 * ecg.sampling_rate), round(20 * ecg.sampling_rate))
        signal[:, middle] = np.inf
        with pytest.warns(UserWarning, match="1 windows are left out, the first for"):
            result = classify(signal, **facts(ecg), window_seconds=10, return_windows=True)
        assert [part["start_s"] for part in result["windows"]] == [0, 20]
        with pytest.raises(ValueError, match="infinite"):
            classify(np.full_like(signal, np.inf), **facts(ecg), window_seconds=10)


class TestFlat:
    """Scores of an ECG without any signal would mean nothing; features of it are still its features."""

    def test_it_is_refused(self, classify, classifier_folder, report_checkpoint, ecgs):
        flat, said = np.zeros_like(ecgs[0].signal), facts(ecgs[0])
        for pipe in (
            classify,
            pipeline("ecg-classification", model=classifier_folder),
            pipeline("ecg-to-text", model=report_checkpoint),
        ):
            with pytest.raises(ValueError, match="ECG 0 holds no signal"):
                pipe(flat, **said)
            assert not pipe.feature_extractor.refuse_flat  # that of the user is left as it was
        with pytest.warns(UserWarning, match="Implausible amplitude"):
            features = pipeline("ecg-feature-extraction", model=classifier_folder)(flat, **said)
        assert np.isfinite(features).all()

    def test_windows_of_it_are_left_out(self, classify):
        ecg = record(seconds=30)
        signal = ecg.signal.copy()
        signal[:, : round(10 * ecg.sampling_rate)] = 0.5
        with pytest.warns(UserWarning, match="1 windows are left out, the first for: ECG 0 holds no signal"):
            result = classify(signal, **facts(ecg), window_seconds=10, return_windows=True)
        assert [part["start_s"] for part in result["windows"]] == [10, 20]


class TestZeroShot:
    @pytest.mark.parametrize("labels", [LABELS, CLASSES])
    def test_scores_are_those_of_inference(self, classify, ecgs, labels):
        by_class = (
            {name: [t] if isinstance(t, str) else t for name, t in labels.items()} if labels is CLASSES else labels
        )
        expected = score_prompts(*load_checkpoint(CHECKPOINT), ecgs, by_class)
        for row, ecg in enumerate(ecgs):
            rows = classify(ecg, candidate_labels=labels)
            found, cosine = by_label(rows), by_label(rows, "cosine_similarity")
            assert set(found) == set(labels) and [r["score"] for r in rows] == sorted(found.values(), reverse=True)
            np.testing.assert_allclose([found[name] for name in labels], expected.score[row], atol=1e-5)
            np.testing.assert_allclose([cosine[name] for name in labels], expected.cosine_similarity[row], atol=1e-5)

    def test_the_best_labels(self, classify, ecgs):
        assert classify(ecgs[2], top_k=1) == classify(ecgs[2])[:1]
        assert classify(ecgs[2], top_k=1)[0]["label"] == "linksschenkelblock"
        assert len(classify(ecgs[2], top_k=9)) == 3
        for top_k in (0, -1):
            with pytest.raises(ValueError, match=f"`top_k` of at least 1, or None for all, got {top_k}"):
                classify("never read.hea", top_k=top_k)

    def test_labels_of_a_call_do_not_stay(self, classify, ecgs):
        other = classify(ecgs[0], candidate_labels=LABELS[:2])
        assert len(other) == 2 and len(classify(ecgs[0])) == 3

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (None, "Expected `candidate_labels`"),
            ("vorhofflimmern", "at least two"),
            ({"a": [], "b": ["x"]}, "none for 'a'"),
        ],
    )
    def test_labels_that_say_nothing(self, labels, message):
        pipe = pipeline("zero-shot-ecg-classification", model=CHECKPOINT)
        with pytest.raises(ValueError, match=message):
            pipe("never read.hea", candidate_labels=labels)

    def test_a_model_without_texts_is_refused(self, classifier_folder):
        with pytest.raises(TypeError, match="correct pipeline task"):  # and no question whether to run custom code
            pipeline("zero-shot-ecg-classification", model=classifier_folder, candidate_labels=LABELS)

    def test_a_processor_is_needed(self):
        model = AutoModel.from_pretrained(CHECKPOINT)
        with pytest.raises(ValueError, match="Expected `processor` beside the model"):
            MeritZeroShotEcgClassificationPipeline(model, feature_extractor=MeritFeatureExtractor())
        with pytest.raises(ValueError, match="Expected a feature extractor beside the model"):
            MeritEcgFeatureExtractionPipeline(model)


class TestClassification:
    def test_scores_are_the_probabilities_of_the_model(self, classifier_folder, ecgs):
        pipe = pipeline("ecg-classification", model=classifier_folder)
        inputs = MeritFeatureExtractor()(ecgs[0], return_tensors="pt")
        with torch.no_grad():
            logits = MeritForEcgClassification.from_pretrained(classifier_folder)(**inputs).logits[0]
        for name, expected in (("sigmoid", logits.sigmoid()), ("softmax", logits.softmax(0)), ("none", logits)):
            found = by_label(pipe(ecgs[0], function_to_apply=name))
            np.testing.assert_allclose([found[c] for c in ("NORM", "MI", "STTC")], expected, atol=1e-5)
        assert pipe(ecgs[0]) == pipe(ecgs[0], function_to_apply="sigmoid") == pipe(ecgs[0], function_to_apply=None)
        pipe.model.config.problem_type = "single_label_classification"
        assert sum(by_label(pipe(ecgs[0])).values()) == pytest.approx(1)
        assert len(pipe(ecgs, top_k=2, batch_size=2)[2]) == 2

    def test_a_function_that_is_none(self, classifier_folder, ecgs):
        with pytest.raises(ValueError, match="one of 'sigmoid', 'softmax', 'none', got 'relu'"):
            pipeline("ecg-classification", model=classifier_folder, function_to_apply="relu")


class TestFeatures:
    @pytest.mark.parametrize("features", ["pooled", "aligned"])
    def test_features_are_those_of_inference(self, ecgs, features):
        pipe = pipeline("ecg-feature-extraction", model=CHECKPOINT, features=features)
        expected = embed_ecgs(*load_checkpoint(CHECKPOINT), ecgs, features)
        for ecg, row in zip(ecgs, expected):
            torch.testing.assert_close(pipe(ecg, return_tensors=True), row, atol=1e-5, rtol=1e-4)
        assert pipe(ecgs[0]) == pipe(ecgs[0], return_tensors=True).tolist()

    def test_windows(self):
        ecg = record(seconds=20)
        pipe = pipeline("ecg-feature-extraction", model=CHECKPOINT, return_tensors=True)
        halves = torch.stack([pipe(ecg.crop(0, 10)), pipe(ecg.crop(10, 20))])
        torch.testing.assert_close(pipe(ecg, window_seconds=10), halves.mean(0), atol=1e-5, rtol=1e-4)
        aligned = pipe(ecg, window_seconds=10, features="aligned")
        assert aligned.norm().item() == pytest.approx(1, abs=1e-5)

    def test_a_classifier_has_features_but_no_aligned_ones(self, classifier_folder, ecgs):
        pipe = pipeline("ecg-feature-extraction", model=classifier_folder)
        encoder = MeritEcgModel.from_pretrained(classifier_folder)
        with torch.no_grad():
            expected = encoder(**MeritFeatureExtractor()(ecgs[0], return_tensors="pt")).pooler_output[0]
        torch.testing.assert_close(pipe(ecgs[0], return_tensors=True), expected, atol=1e-5, rtol=1e-4)
        with pytest.raises(ValueError, match="aligned with texts"):
            pipe(ecgs[0], features="aligned")
        with pytest.raises(ValueError, match="'pooled' or 'aligned', got 'leads'"):
            pipe(ecgs[0], features="leads")


class TestReports:
    def test_texts_are_those_of_inference(self, report_checkpoint, ecgs):
        pipe = pipeline("ecg-to-text", model=report_checkpoint, max_new_tokens=9)
        loaded = load_checkpoint(report_checkpoint, "AutoModelForMultimodalLM")
        for options in (
            {},
            {"language": "German"},
            {"prompt": "Rhythm? {ecg}", "num_beams": 2},
            {"max_new_tokens": 3},
        ):
            expected = generate_reports(*loaded, ecgs, **{"max_new_tokens": 9} | options)
            assert [rows[0]["generated_text"] for rows in pipe(ecgs, **options)] == expected
            assert [rows[0]["generated_text"] for rows in pipe(ecgs, batch_size=2, **options)] == expected

    def test_one_text_per_window(self, report_checkpoint):
        pipe, ecg = pipeline("ecg-to-text", model=report_checkpoint, max_new_tokens=9), record(seconds=45)
        for batch_size in (1, 4):
            rows = pipe(ecg, window_seconds=10, batch_size=batch_size)
            assert [(row["start_s"], row["stop_s"]) for row in rows] == [(s, s + 10) for s in range(0, 40, 10)]
            for row in rows:
                alone = pipe(ecg.crop(row["start_s"], row["stop_s"]))
                assert alone[0]["generated_text"] == row["generated_text"] != ""

    def test_arguments_of_generate_beside_its_configuration(self, report_checkpoint, ecgs):
        pipe, seen = pipeline("ecg-to-text", model=report_checkpoint, max_new_tokens=9, do_sample=False), []

        def stop(ids, scores, **kwargs):
            seen.append("stopping_criteria")
            return torch.ones(len(ids), dtype=torch.bool)

        def keep(ids, scores):
            seen.append("logits_processor")
            return scores

        def allowed(number, ids):
            seen.append("prefix_allowed_tokens_fn")
            return [5]

        whole = pipe(ecgs[0])[0]["generated_text"]
        given = {"stopping_criteria": [stop], "logits_processor": [keep], "prefix_allowed_tokens_fn": allowed}
        texts = {name: pipe(ecgs[0], **{name: value})[0]["generated_text"] for name, value in given.items()}
        assert set(seen) == set(given) and texts["logits_processor"] == whole
        assert set(texts["prefix_allowed_tokens_fn"].split()) == {"sinus"}
        assert whole.startswith(texts["stopping_criteria"]) and texts["stopping_criteria"] != whole
        assert pipe(ecgs[0], assistant_model=pipe.model)[0]["generated_text"] == whole
        streamer = TextIteratorStreamer(pipe.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        assert pipe(ecgs[0], streamer=streamer)[0]["generated_text"] == "".join(streamer).strip()

    def test_texts_stop_where_they_are_told_to(self, ecgs):
        pipe = pipeline("ecg-to-text", model=f"{CHECKPOINT}-report", max_new_tokens=9)
        word = pipe(ecgs[0])[0]["generated_text"].split()[1]
        for options in ({}, {"tokenizer": pipe.processor.tokenizer}):
            assert pipe(ecgs[0], stop_strings=[word], **options)[0]["generated_text"].split()[-1] == word

    def test_an_argument_that_is_unknown(self, report_checkpoint, ecgs):
        with pytest.raises(TypeError, match="got candidate_labels"):
            pipeline("ecg-to-text", model=report_checkpoint)(ecgs[0], candidate_labels=LABELS)


ALONE = """
import json
import numpy as np
from transformers import pipeline
folder, files, calls = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
array = np.load(f"{files}/ecg.npz")
facts = {"sampling_rate": float(array["sampling_rate"]), "leads": array["leads"].tolist(), "units": "mV"}
results = []
for task, call in calls:
    pipe = pipeline(task, model=folder, trust_remote_code=True)
    assert type(pipe).__module__.startswith("transformers_modules."), type(pipe)
    assert type(pipe.model).__module__.startswith("transformers_modules."), type(pipe.model)
    result = {"task": pipe.task, "array": pipe(array["signal"], **facts, **call), "errors": {}}
    for name in ("npz", "hea", "dat"):
        result[name] = pipe(f"{files}/ecg.{name}", **call)
    result["bare"] = pipe(f"{files}/ecg", **call)
    result["window"] = pipe(f"{files}/ecg.hea", window_seconds=5, **call)
    for name in ("ecg.edf", "absent.hea", "outside.hea", "objects.npz"):
        try:
            result["errors"][name] = repr(pipe(f"{files}/{name}", **call))
        except Exception as error:
            result["errors"][name] = f"{type(error).__name__}: {error}"
    results.append(result)
print(json.dumps(results))
"""


@pytest.mark.slow
class TestWithoutThePackage:
    @pytest.fixture(scope="class")
    def files(self, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("files")
        ecg = record(NAMES[2])
        for suffix in (".hea", ".npz", ".edf"):
            write_ecg(ecg, folder / f"ecg{suffix}")
        (folder.parent / "secret.dat").write_bytes(bytes(24000))
        header = (folder / "ecg.hea").read_text().replace("ecg.dat", "../secret.dat")
        (folder / "outside.hea").write_text(header.replace("ecg ", "outside ", 1))
        np.savez(folder / "objects.npz", signal=np.array([{}], dtype=object))
        return folder

    @pytest.mark.parametrize(
        ("kind", "calls"),
        [
            (
                "dual",
                [
                    (None, {"candidate_labels": CLASSES}),
                    ("zero-shot-ecg-classification", {"candidate_labels": LABELS, "top_k": 2}),
                    ("ecg-feature-extraction", {"features": "aligned"}),
                    ("feature-extraction", {}),
                ],
            ),
            ("classifier", [(None, {}), ("ecg-feature-extraction", {})]),
            ("report", [(None, {"max_new_tokens": 6})]),
        ],
    )
    def test_the_folder_alone_gives_the_same(
        self, kind, calls, files, hub_folder, classifier_folder, report_checkpoint, tmp_path
    ):
        folder = {"dual": str(hub_folder), "classifier": classifier_folder, "report": report_checkpoint}[kind]
        done = without_package(ALONE, folder, files, json.dumps(calls), HF_HOME=str(tmp_path))
        assert done.returncode == 0, done.stderr[-3000:]
        results = json.loads(done.stdout.splitlines()[-1])
        for result, (task, call) in zip(results, calls, strict=True):
            pipe = pipeline(OF_TRANSFORMERS.get(task, task), model=folder)
            assert result["task"] == (task or pipe.task)
            self.assert_equal(result["npz"], pipe(str(files / "ecg.npz"), **call))
            self.assert_equal(result["array"], result["npz"])
            self.assert_equal(result["hea"], pipe(str(files / "ecg.hea"), **call))
            self.assert_equal(result["window"], pipe(str(files / "ecg.hea"), window_seconds=5, **call))
            assert result["hea"] == result["dat"] == result["bare"]
            errors = result["errors"]
            assert errors["ecg.edf"].startswith("ImportError: Cannot read ecg.edf. Without the package merit-ecg")
            assert errors["absent.hea"].startswith("FileNotFoundError: There is no ECG file 'absent.hea'")
            assert errors["outside.hea"].startswith("ValueError: outside.hea is no WFDB record that can be read")
            assert errors["objects.npz"].startswith("ValueError: objects.npz is a damaged .npz file, or holds objects")
            assert "pip install merit-ecg" not in str(errors)

    def assert_equal(self, found: list, expected: list) -> None:
        if isinstance(expected[0], float):
            np.testing.assert_allclose(found, expected, atol=1e-5)
        elif "generated_text" in expected[0]:
            assert found == expected
        else:
            assert_same(found, expected, atol=1e-5)

    def test_from_the_hub(self, hub_folder, files, tmp_path):
        """Pushed, then used by its id alone, as the Hub's snippet for `pipeline_tag` does it."""
        push = "import sys\nfrom modeling_merit import MeritForPreTraining, MeritProcessor\n"
        push += "for each in (MeritForPreTraining, MeritProcessor):\n"
        push += "    each.from_pretrained(sys.argv[1]).push_to_hub('merit-ecg')\n"
        use = "import json\nfrom transformers import pipeline\n"
        use += "pipe = pipeline('feature-extraction', model='me/merit-ecg', trust_remote_code=True)\n"
        use += "first = pipeline(model='me/merit-ecg', trust_remote_code=True)\n"
        use += "print(json.dumps([first.task, pipe(sys.argv[1])]))"
        with LoopbackHub() as hub:
            command = [sys.executable, "-c", push, CHECKPOINT]
            subprocess.run(command, check=True, capture_output=True, env=hub.environment(tmp_path / "pusher"))
            assert "pipelines_merit.py" in hub.files("me/merit-ecg")
            environment = hub.environment(tmp_path / "loader") | {"HF_HUB_OFFLINE": "0"}
            done = without_package(use, files / "ecg.npz", **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        task, features = json.loads(done.stdout.splitlines()[-1])
        own = pipeline("ecg-feature-extraction", model=CHECKPOINT)(str(files / "ecg.npz"))
        assert task == "zero-shot-ecg-classification"
        np.testing.assert_allclose(features, own, atol=1e-5)


HANDLE = """
import importlib.util, json
spec = importlib.util.spec_from_file_location("handler", f"{sys.argv[1]}/handler.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(sys.argv[1])
answers = []
for request in json.load(open(sys.argv[2])):
    try:
        answers.append(handler(request))
    except Exception as error:
        answers.append(f"{type(error).__name__}: {error}")
print(json.dumps(answers))
"""


def answers(folder: object, requests: list[dict], tmp_path: Path) -> list:
    (tmp_path / "requests.json").write_text(json.dumps(requests))
    done = without_package(HANDLE, folder, tmp_path / "requests.json", HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
class TestHandler:
    def test_requests(self, hub_folder, classify, ecgs, tmp_path):
        write_ecg(ecgs[1], tmp_path / "ecg.hea")
        array = {"signal": ecgs[0].signal.tolist(), **facts(ecgs[0])}
        encoded = {name: base64.b64encode((tmp_path / name).read_bytes()).decode() for name in ("ecg.hea", "ecg.dat")}
        labels = {"candidate_labels": LABELS}
        outside = base64.b64encode(b"ecg 1 500 5000\n/etc/passwd 8 200/mV 8 0 0 0 0 I\n").decode()
        requests = [
            {"inputs": array, "parameters": labels},
            {"inputs": [{"files": encoded}, array], "parameters": labels | {"top_k": 1}},
            {"inputs": array, "parameters": {"task": "ecg-feature-extraction"}},
            {"inputs": array},
            {"inputs": "/etc/passwd", "parameters": labels},
            {"inputs": {"signal": "/etc/passwd", **facts(ecgs[0])}, "parameters": labels},
            {"inputs": {"files": {"../ecg.hea": encoded["ecg.hea"]}}, "parameters": labels},
            {"inputs": {"files": {"ecg.hea": outside}}, "parameters": labels},
            {"inputs": {"files": {"ecg.npz": "no base64!"}}, "parameters": labels},
            {"inputs": [], "parameters": labels},
            {"inputs": array, "parameters": {"task": "text-generation"}},
            {"parameters": labels},
        ]
        found = answers(hub_folder, requests, tmp_path)
        assert found[0]["task"] == "zero-shot-ecg-classification" and found[0]["disclaimer"] == DISCLAIMER
        assert "not a probability" in found[0]["meaning"]
        assert_same(found[0]["results"][0], classify(ecgs[0]), atol=1e-5)
        assert_same(found[1]["results"][0], classify(str(tmp_path / "ecg.hea"), top_k=1), atol=1e-5)
        assert [len(rows) for rows in found[1]["results"]] == [1, 1]
        own = pipeline("ecg-feature-extraction", model=CHECKPOINT)(ecgs[0])
        np.testing.assert_allclose(found[2]["results"][0], own, atol=1e-5)
        expected = ["`candidate_labels`", "Expected an ECG as", "`signal` as a list", "a plain file name"]
        expected += [
            "no WFDB record that can be read",
            "in base64",
            "an empty list",
            "`task` to be one of",
            "Expected an ECG as",
        ]
        for answer, message in zip(found[3:], expected, strict=True):
            assert answer.startswith("ValueError") and message in answer, answer

    def test_a_classifier(self, classifier_folder, ecgs, tmp_path):
        folder = tmp_path / "published"
        command = [sys.executable, "hub_cards/make_hub_folder.py", "--model", classifier_folder, "--output", folder]
        done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
        assert done.returncode == 0, done.stderr
        array = {"signal": ecgs[0].signal.tolist(), **facts(ecgs[0])}
        (answer,) = answers(folder, [{"inputs": array, "parameters": {"top_k": 1}}], tmp_path)
        assert answer["task"] == "ecg-classification" and "meaning" not in answer
        assert_same(answer["results"][0], pipeline(model=classifier_folder)(ecgs[0], top_k=1), atol=1e-5)

    def test_what_an_endpoint_installs(self, hub_folder):
        lines = (hub_folder / "requirements.txt").read_text().splitlines()
        assert any(line.startswith("transformers") and ">=5.23" in line for line in lines)
        assert not any("merit" in line or "torch" in line for line in lines)
