"""Inference: embeddings, scores and reports are those of model and processor called by hand, alone or in batches."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModel, AutoModelForMultimodalLM, AutoProcessor, GenerationConfig

from modeling_merit.processing import EcgRecord
from modeling_merit.processing.benchmark.prompts import SCORE_MEANING, average_prompts, flatten_prompts, load_prompts
from modeling_merit.processing.data import normalize_report
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.inference import (
    SIMILARITY_WEIGHT,
    embed_ecgs,
    embed_prompts,
    generate_reports,
    load_checkpoint,
    load_scorer,
    score_embeddings,
    score_prompts,
)

CHECKPOINT = str(Path(__file__).resolve().parent.parent / "hub_cards" / "merit-ecg")
PROMPTS = ["vorhofflimmern", "sinusrhythmus", "linksschenkelblock"]


@pytest.fixture(scope="module")
def loaded():
    return load_checkpoint(CHECKPOINT)


@pytest.fixture(scope="module")
def writer(report_checkpoint):
    return load_checkpoint(report_checkpoint, "AutoModelForMultimodalLM")


@pytest.fixture(scope="module")
def ecgs() -> list[EcgRecord]:
    names = ("sinus_rhythm", "atrial_fibrillation", "left_bundle_branch_block")
    simulated = [simulate_ecg(name, seed=seed) for seed, name in enumerate(names)]
    return [EcgRecord(ecg.signal, ecg.sampling_rate, ecg.leads) for ecg in simulated]


def test_a_checkpoint_is_loaded_for_ecgs_as_they_come(loaded):
    model, processor = loaded
    extractor = processor.feature_extractor
    assert (extractor.nan_policy, extractor.extra_leads, extractor.truncation) == ("mask", "drop", False)
    assert not model.training
    assert load_checkpoint(CHECKPOINT, truncation=True)[1].feature_extractor.truncation


@pytest.mark.parametrize("features", ["aligned", "pooled"])
@torch.no_grad()
def test_embeddings_are_those_of_the_model(loaded, ecgs, features):
    model, inputs = AutoModel.from_pretrained(CHECKPOINT), AutoProcessor.from_pretrained(CHECKPOINT)(ecg=ecgs)
    inputs = [torch.as_tensor(inputs[name]) for name in ("input_values", "ecg_mask")]
    expected = {
        "aligned": lambda: model.get_ecg_features(*inputs).pooler_output,
        "scores": lambda: model.get_score_features(*inputs),
        "pooled": lambda: model.ecg_model(*inputs).pooler_output,
    }[features]()
    torch.testing.assert_close(embed_ecgs(*loaded, ecgs, features), expected)
    extracted = loaded[1].feature_extractor(ecgs, return_tensors="pt")
    torch.testing.assert_close(embed_ecgs(*loaded, extracted, features), expected)


@torch.no_grad()
def test_scores_are_those_of_the_model(loaded, ecgs):
    model, processor = AutoModel.from_pretrained(CHECKPOINT), AutoProcessor.from_pretrained(CHECKPOINT)
    outputs = model(**processor(ecg=ecgs, text=PROMPTS, return_tensors="pt"))
    cosine = (outputs.ecg_embeds @ outputs.text_embeds.T).numpy()
    scores = score_prompts(*loaded, ecgs, PROMPTS)
    assert scores.relative_similarity.shape == (3, 3)
    np.testing.assert_allclose(scores.cosine_similarity, cosine, atol=1e-6)
    np.testing.assert_allclose(scores.relative_similarity, cosine - cosine.mean(axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(scores.relative_similarity.sum(axis=1), 0, atol=1e-5)
    tokens = processor(text=PROMPTS, return_tensors="pt")
    words = model.get_words(tokens["input_ids"], tokens["attention_mask"]).numpy()
    inputs = processor(ecg=ecgs, return_tensors="pt")
    evidence = model.get_word_evidence(inputs["input_values"], inputs["ecg_mask"]).numpy()
    mean = evidence @ (words / words.sum(axis=1, keepdims=True)).T
    expected = mean + SIMILARITY_WEIGHT * model.get_logit_scale().item() * scores.relative_similarity
    np.testing.assert_allclose(scores.score, expected, atol=1e-4)


@torch.no_grad()
def test_scores_of_a_label_set_are_the_published_ones(loaded):
    """To the bit what `examples/zero_shot.py` computed when the results in `results/` were made."""
    prompts = load_prompts("superclass")
    embeds = np.random.default_rng(0).normal(size=(50, 256 + loaded[0].config.num_words)).astype(np.float32)
    texts, owners = flatten_prompts(prompts)
    tokens = loaded[1].tokenizer(
        [normalize_report(text) for text in texts], padding=True, truncation=True, return_tensors="pt"
    )
    features = loaded[0].get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
    anchors = average_prompts(features.float().cpu().numpy(), owners)
    embedded = embed_prompts(*loaded, prompts)
    assert embedded.names == ("CD", "HYP", "MI", "NORM", "STTC")
    scores = score_embeddings(embeds, embedded)
    np.testing.assert_array_equal(scores.cosine_similarity, embeds[:, :256] @ anchors.T)
    anchors -= anchors.mean(axis=0)
    np.testing.assert_array_equal(scores.relative_similarity, embeds[:, :256] @ anchors.T)


def test_prompts_by_class_are_ensembles(loaded, ecgs):
    """The order of texts and a text's spelling in capitals change nothing."""
    one = score_prompts(*loaded, ecgs, {"AFIB": ["vorhofflimmern", "atrial fibrillation"], "SR": ["sinusrhythmus"]})
    other = score_prompts(*loaded, ecgs, {"AFIB": ["Atrial  Fibrillation", "Vorhofflimmern"], "SR": ["SinusRhythmus"]})
    np.testing.assert_allclose(one.relative_similarity, other.relative_similarity, atol=1e-6)
    alone = score_prompts(*loaded, ecgs, ["vorhofflimmern", "sinusrhythmus"])
    assert np.abs(one.relative_similarity - alone.relative_similarity).max() > 1e-3


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["vorhofflimmern"], "at least two prompts"),
        ("vorhofflimmern", "at least two prompts"),
        ([], "at least two prompts"),
        ({"AFIB": ["vorhofflimmern", "atrial fibrillation"]}, "at least two prompts"),
        ({"AFIB": ["vorhofflimmern"], "SR": []}, "none for 'SR'"),
        (["vorhofflimmern", "vorhofflimmern"], "one more than once"),
        (["vorhofflimmern", " Vorhofflimmern "], "the same to the model"),
        ({"a": ["vorhofflimmern", "sinusrhythmus"], "b": ["sinusrhythmus", "vorhofflimmern"]}, "'a' and 'b'"),
        (["心电图", "sinusrhythmus"], "'心电图', of which it knows none"),
        (["\u200b", "sinusrhythmus"], "of which it knows none"),
        (["sinusrhythmus", " "], "of which it knows none"),
        (["rhythmus 心", "rhythmus 电"], "the same to the model"),
        (["sinusrhythmus " * 70 + "mit vorhofflimmern", "sinusrhythmus " * 70], "the same to the model"),
    ],
)
def test_prompts_whose_scores_say_nothing_are_refused(loaded, ecgs, prompts, message):
    with pytest.raises(ValueError, match=message) as error:
        score_prompts(*loaded, ecgs[0], prompts)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["vorhofflimmern 心", "sinusrhythmus"], "1 of 2 texts have words that the model does not know"),
        (["vorhofflimmern " * 70, "sinusrhythmus"], "1 of 2 texts have more than the 64 tokens that the model reads"),
        ({"a": ["ekg", "vorhofflimmern"], "b": ["ekg"]}, "1 of 3 texts have a place in the prompts more than once"),
    ],
)
def test_prompts_that_are_read_in_part_are_warned_about(loaded, ecgs, prompts, message):
    with pytest.warns(UserWarning, match=message):
        score_prompts(*loaded, ecgs[0], prompts)


def test_a_text_of_64_tokens_is_not_cut(loaded):
    long = "ekg " * 62
    assert len(loaded[1].tokenizer(long)["input_ids"]) == 64
    assert embed_prompts(*loaded, [long, "sinusrhythmus"]).notes == ()
    assert len(embed_prompts(*loaded, [long + "ekg", "sinusrhythmus"]).notes) == 1


class TestCheckpoint:
    def test_a_folder_without_a_model(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"holds no config\.json\. Expected the folder of a checkpoint"):
            load_checkpoint(str(tmp_path))

    @pytest.mark.parametrize("name", ["/absent/folder", "./absent", "", "a/b/c", "a\0b", "ab" * 300])
    def test_a_name_that_is_none_of_the_hub(self, name):
        with pytest.raises((FileNotFoundError, OSError)) as error:
            load_checkpoint(name)
        assert "Traceback" not in str(error.value) and "\n" not in str(error.value)

    def test_an_id_without_a_network_fails_at_once(self, tmp_path):
        """No retries, in a process whose Hub does not answer."""
        code = (
            "import time; from modeling_merit.processing.inference import load_checkpoint\n"
            "import huggingface_hub; start = time.process_time(), time.monotonic()\n"
            "try: load_checkpoint('nobody/nothing')\n"
            "except OSError as error: print(time.monotonic() - start[1], error)"
        )
        place = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run([sys.executable, "-c", code], env=os.environ | place, capture_output=True, text=True)
        seconds, _, message = done.stdout.partition(" ")
        assert message.startswith("There is no folder 'nobody/nothing', and no model of that name could be had"), done
        assert message.count("\n") == 1 and "Check the name and the connection" in message
        assert float(seconds) < 10 and "Retrying" not in done.stderr

    def test_models_of_another_kind(self, report_checkpoint):
        with pytest.raises(
            ValueError, match="a model that writes reports .* got 'merit' in .*train_report_generation"
        ):
            load_checkpoint(CHECKPOINT, "AutoModelForMultimodalLM")
        with pytest.raises(ValueError, match="a model that compares ECGs with texts .* got 'merit_generation'"):
            load_checkpoint(report_checkpoint)

    def test_damaged_and_missing_weights(self, tmp_path):
        from safetensors.torch import load_file, save_file

        folder = shutil.copytree(CHECKPOINT, tmp_path / "model")
        weights = folder / "model.safetensors"
        tensors = load_file(weights)
        del tensors["merit.text_projection.fc1.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
        with pytest.raises(OSError, match="1 are missing, such as text_projection"):
            load_checkpoint(str(folder))
        weights.write_bytes(weights.read_bytes()[:-1000])
        with pytest.raises(OSError, match="The weights in .* are damaged"):
            load_checkpoint(str(folder))
        (folder / "config.json").write_text("[")
        with pytest.raises(ValueError, match=r"config\.json in .* is damaged"):
            load_checkpoint(str(folder))
        (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
        with pytest.raises(ValueError, match="got 'bert'"):
            load_checkpoint(str(folder))

    def test_an_adapter_without_its_model(self, tmp_path):
        (tmp_path / "adapter_config.json").write_text("{}")
        with pytest.raises(ValueError, match=r"an adapter without its model.*`merge_and_unload\(\)`"):
            load_scorer(str(tmp_path))


def test_features_that_there_are_not(loaded, ecgs):
    with pytest.raises(ValueError, match="`features` to be one of 'aligned', 'scores', 'pooled', got 'pool'"):
        embed_ecgs(*loaded, ecgs[0], "pool")


@pytest.mark.parametrize("paths", [pd.Series(["a.hea", "b.hea"]), np.array(["a.hea"]), pd.Series([Path("a.hea")])])
def test_paths_that_are_no_list(loaded, paths):
    with pytest.raises(ValueError, match=r"expected real numbers.*Pass paths or records as a list, `list\(ecgs\)`"):
        embed_ecgs(*loaded, paths)


def test_a_report_stops_where_it_is_told_to(ecgs):
    """The tokenizer by which `generate` finds the words is that of the processor."""
    writer = load_checkpoint(f"{CHECKPOINT}-report", "AutoModelForMultimodalLM")
    options = {"max_new_tokens": 9, "do_sample": False}
    (whole,) = generate_reports(*writer, ecgs[0], **options)
    stop = whole.split()[1]
    (short,) = generate_reports(*writer, ecgs[0], stop_strings=[stop], **options)
    assert whole.startswith(short) and short.endswith(stop) and len(short) < len(whole)


@torch.no_grad()
def test_a_report_is_that_of_the_model(writer, report_checkpoint, ecgs):
    model, processor = (each.from_pretrained(report_checkpoint) for each in (AutoModelForMultimodalLM, AutoProcessor))
    prompt = model.config.prompts["report"].format(ecg=processor.ecg_token, language="German")
    inputs = processor(ecg=ecgs[0], text=prompt, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=9, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    written = generate_reports(*writer, ecgs[0], language="German", max_new_tokens=9, do_sample=False)
    assert written == [processor.tokenizer.decode(ids, skip_special_tokens=True).strip()] != [""]


def test_a_batch_of_several_languages_equals_single_reports(writer, ecgs):
    languages = ["English", "atrial", "a much longer name of a language: 123456789"]  # other texts, other lengths
    options = {"max_new_tokens": 9, "do_sample": False, "prompt": writer[0].config.prompts["report"]}
    single = [generate_reports(*writer, ecg, language=one, **options)[0] for ecg, one in zip(ecgs, languages)]
    assert generate_reports(*writer, ecgs, language=languages, **options) == single
    assert len(set(single)) > 1
    features = writer[1].feature_extractor(ecgs, return_tensors="pt")
    assert generate_reports(*writer, features, language=languages, **options) == single
    without_mask = {"input_values": features["input_values"]}  # every sample of these was recorded
    assert generate_reports(*writer, without_mask, language=languages, **options) == single


def test_prompts(writer, ecgs):
    options = {"max_new_tokens": 9, "do_sample": False}
    default = writer[0].config.prompts["report"]
    assert generate_reports(*writer, ecgs[0], default, **options) == generate_reports(*writer, ecgs[0], **options)
    first = generate_reports(*writer, ecgs[0], "Rhythm?", **options)
    assert first == generate_reports(*writer, ecgs[0], "{ecg} Rhythm?", **options)
    assert first != generate_reports(*writer, ecgs[0], **options)
    with pytest.raises(ValueError, match="once in the prompt"):
        generate_reports(*writer, ecgs[0], "{ecg} and {ecg}")
    with pytest.raises(ValueError, match="one language for each of 2 ECGs, got 3"):
        generate_reports(*writer, ecgs[:2], language=["English"] * 3)
    with pytest.raises(ValueError, match="out of English, German, Swedish, .* got 'de', 'french'"):
        generate_reports(*writer, ecgs[:3], language=["french", "German", "de"])


@pytest.mark.parametrize("options", [{"num_return_sequences": 2, "num_beams": 2}, {"return_dict_in_generate": True}])
def test_other_than_one_text_per_ecg_is_refused(writer, ecgs, options):
    """A pipeline would hand the second text of one ECG out as that of the next."""
    with pytest.raises(ValueError, match=f"one text for each ECG, got {next(iter(options))}"):
        generate_reports(*writer, ecgs[:2], **options)
    with pytest.raises(ValueError, match="one text for each ECG"):
        generate_reports(*writer, ecgs[:2], generation_config=GenerationConfig(**options))


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="Expected a device that torch finds here, got 'abacus'"):
        load_checkpoint(CHECKPOINT, device="abacus")


def test_scores_of_features_with_a_gradient(loaded, ecgs):
    model, processor = loaded
    inputs = processor(ecg=ecgs, return_tensors="pt")
    features = model.get_score_features(inputs["input_values"], inputs["ecg_mask"])
    assert features.requires_grad
    expected = score_prompts(model, processor, ecgs, PROMPTS).score
    np.testing.assert_allclose(score_embeddings(features, embed_prompts(*loaded, PROMPTS)).score, expected, atol=1e-5)


def test_masked_samples_and_dropped_leads(loaded, ecgs):
    signal = np.concatenate([ecgs[0].signal, ecgs[0].signal[:1]])
    signal[0, :50] = np.nan
    record = EcgRecord(signal, ecgs[0].sampling_rate, (*ecgs[0].leads, "X"))
    with pytest.warns(UserWarning, match="dropped: X"):
        embedding = embed_ecgs(*loaded, record)
    assert embedding.isfinite().all() and not torch.equal(embedding, embed_ecgs(*loaded, ecgs[0]))


@pytest.mark.slow
class TestExamples:
    def run(self, *arguments) -> subprocess.CompletedProcess:
        root = Path(__file__).resolve().parent.parent
        command = [sys.executable, str(root / "examples" / arguments[0]), *map(str, arguments[1:])]
        return subprocess.run(command, cwd=root, capture_output=True, text=True)

    def test_quickstart(self, tmp_path):
        plot = tmp_path / "new" / "ecg.png"
        done = self.run("quickstart.py", "--model", CHECKPOINT, "--plot", plot)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.strip().splitlines()
        assert lines[2].startswith("left bundle branch block") and lines[-3] == SCORE_MEANING
        assert plot.read_bytes().startswith(b"\x89PNG") and max(map(len, lines[:-3])) < 120  # bars fit a line
        alone = self.run("quickstart.py", "--model", CHECKPOINT, "--prompts", "vorhofflimmern", "--plot", plot)
        assert alone.returncode == 2 and "at least two prompts" in alone.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("quickstart.py", "--model", "/absent/model"), "There is no folder '/absent/model'"),
            (("zero_shot.py", "--model", "/absent/model", "--data_dir", "d", "--run", "a"), "There is no folder"),
            (("zero_shot.py", "--model", CHECKPOINT, "--data_dir", "/absent", "--run", "a"), "ptbxl_database.csv"),
        ],
    )
    def test_a_wrong_folder_is_one_line(self, arguments, message):
        done = self.run(*arguments)
        assert done.returncode == 2 and message in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr and "Retrying" not in done.stderr
