"""MeritProcessor: what it accepts, what it returns, placeholders, chat templates, saving."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerFast

from modeling_merit.processing import EcgFormatError, EcgRecord, MeritFeatureExtractor, MeritProcessor, read_ecg
from modeling_merit.processing.leads import STANDARD_LEADS
from modeling_merit.processing.writers import write_wfdb

LEADS = list(STANDARD_LEADS)
METADATA = {"sampling_rate": 100, "leads": LEADS, "units": "mV"}
AS_THEY_ARE = {"high_pass": None, "patch_length": 50}  # what went in can be compared
WORDS = ["[PAD]", "[UNK]", "<s>", "sinus", "rhythm", "normal", "ecg", "user", ":"]
CHAT = (
    "{% for message in messages %}<s>{{ message.role }} : {% for block in message.content %}"
    "{% if block.type == 'ecg' %}<|ecg|>{% else %} {{ block.text }}{% endif %}{% endfor %}{% endfor %}"
)


def make_tokenizer(ecg_token=False, **options):
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "<s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special, **options)
    if ecg_token:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|ecg|>"]})
    return tokenizer


def make_ecg(samples=1000, leads=12, seed=0):
    return np.random.default_rng(seed).normal(size=(leads, samples)).astype(np.float32)


@pytest.fixture
def processor():
    return MeritProcessor(MeritFeatureExtractor(**AS_THEY_ARE), make_tokenizer(model_max_length=8))


@pytest.fixture
def prompter():
    """A processor for generation: its tokenizer knows the placeholder, and an ECG takes 3 of them."""
    return MeritProcessor(
        MeritFeatureExtractor(**AS_THEY_ARE), make_tokenizer(True), num_ecg_tokens=3, chat_template=CHAT
    )


# --- ECGs and text --------------------------------------------------------------------------------------------------


def test_ecg_and_text(processor):
    ecg = make_ecg()
    inputs = processor(ecg=ecg, text=["sinus rhythm", "normal"], **METADATA, return_tensors="pt")
    assert isinstance(inputs, BatchFeature)
    assert set(inputs) == {"input_values", "ecg_mask", "input_ids", "attention_mask"}
    np.testing.assert_array_equal(inputs["input_values"][0], ecg)
    assert inputs["input_ids"].tolist() == [[3, 4], [5, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1], [1, 0]]
    half = inputs.to(torch.bfloat16)
    assert half["input_values"].dtype == torch.bfloat16 and half["input_ids"].dtype == torch.int64


def test_one_of_the_two_alone(processor):
    assert set(processor(text="normal ecg")) == {"input_ids", "attention_mask"}
    assert set(processor(ecg=make_ecg(), **METADATA)) == {"input_values", "ecg_mask"}
    with pytest.raises(ValueError, match="Expected `ecg`, `text` or both"):
        processor()


def test_audio_is_another_name_of_ecg(processor):
    ecg = make_ecg()
    np.testing.assert_array_equal(
        processor(audio=ecg, **METADATA)["input_values"], processor(ecg=ecg, **METADATA)["input_values"]
    )


def test_keywords_reach_the_feature_extractor(processor):
    ecg = make_ecg(4000)
    ecg[0, 3] = np.nan
    inputs = processor(ecg, **METADATA, nan_policy="mask", truncation=True, return_quality=True, return_tensors="pt")
    assert inputs["input_values"].shape == (1, 12, 3000) and not inputs["ecg_mask"][0, 0, 3]
    assert inputs["quality"][0]["nan_fraction"] == pytest.approx(1 / 36_000)  # of the part that is kept
    with pytest.raises(ValueError, match="nan_policy"):
        processor(ecg, **METADATA, truncation=True)
    with pytest.raises(ValueError, match="truncation=True"):
        processor(ecg, **METADATA, nan_policy="mask")
    with pytest.raises(ValueError, match="does not say its `sampling_rate`, `leads`, `units`"):
        processor(ecg)


def test_a_misspelt_keyword_is_refused(processor):
    with pytest.raises(TypeError, match="sample_rate"):
        processor(make_ecg(), sample_rate=100)


def test_arguments_of_one_modality_alone(processor):
    """`truncation` is for both; what is too long of the other modality stays long, or is refused."""
    ecg, text = make_ecg(4000), "normal " * 20
    for options in ({"truncation": True}, {"audio_kwargs": {"truncation": True}}):
        inputs = processor(ecg, text, **METADATA, **options)
        assert inputs["input_values"].shape == (1, 12, 3000) and len(inputs["input_ids"][0]) == 8
    assert len(processor(make_ecg(), text, **METADATA, text_kwargs={"truncation": False})["input_ids"][0]) == 20
    with pytest.raises(ValueError, match="truncation=True"):
        processor(ecg, text, **METADATA)
    nested = processor(make_ecg(), audio_kwargs=METADATA)
    np.testing.assert_array_equal(nested["input_values"], processor(make_ecg(), **METADATA)["input_values"])


@pytest.mark.parametrize("as_given", [np.asarray, torch.from_numpy, list, lambda ecg: ecg.tolist(), lambda ecg: [ecg]])
def test_one_ecg_takes_one_placeholder_however_it_is_given(prompter, as_given):
    inputs = prompter(as_given(make_ecg()), "<|ecg|> normal", **METADATA)
    np.testing.assert_array_equal(inputs["input_values"][0], make_ecg())
    two = prompter(np.stack([make_ecg(), make_ecg()]), "<|ecg|> <|ecg|>", **METADATA)
    assert two["input_values"].shape == (2, 12, 1000)


def test_text_is_truncated_to_the_limit_of_the_tokenizer(processor):
    assert processor(text="normal " * 20)["input_ids"] == [[5] * 8]
    assert processor(text="normal " * 20, max_length=3)["input_ids"] == [[5] * 3]
    padded = processor(text="normal", padding="max_length", max_length=4)
    assert padded["input_ids"] == [[5, 0, 0, 0]] and padded["attention_mask"] == [[1, 0, 0, 0]]
    unlimited = MeritProcessor(MeritFeatureExtractor(), make_tokenizer())
    assert len(unlimited(text="normal " * 20)["input_ids"][0]) == 20
    assert set(processor(text="normal", text_kwargs={"return_attention_mask": False})) == {"input_ids"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Text 0 is empty"),
        (["normal", " \n"], "Text 1 is empty"),
        ([], "at least one text"),
        (["normal", None], "got NoneType at 1"),
        ([["normal", "ecg"]], "got list at 0"),
        (
            "<|ecg|> normal",
            r"Text 0 holds <\|ecg\|>, which the tokenizer does not know. .* add it by `tokenizer.add_special",
        ),
    ],
)
def test_text_that_is_none_is_refused(processor, text, message):
    with pytest.raises(ValueError, match=message):
        processor(ecg=make_ecg(), text=text, **METADATA)


def test_decoding_is_that_of_the_tokenizer(processor):
    assert processor.decode([3, 4]) == "sinus rhythm"
    assert processor.batch_decode([[3, 4], [5, 0]], skip_special_tokens=True) == ["sinus rhythm", "normal"]


# --- records and files ----------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Two WFDB records of 2 leads, 5 s at 200 Hz, in µV steps."""
    records = []
    for index in range(2):
        signal = np.round(make_ecg(1000, leads=2, seed=index) * 1000) / 1000
        record = EcgRecord(signal, sampling_rate=200, leads=("V1", "II"), record_id=f"r{index}")
        records.append((record, write_wfdb(record, tmp_path)))
    return records


def test_records_paths_and_arrays_agree(processor, files):
    records, paths = zip(*files)
    expected = processor(list(records))["input_values"]
    assert expected.shape == (2, 12, 500)
    for same in (list(paths), [str(path) for path in paths], [records[0], paths[1]]):
        np.testing.assert_allclose(processor(same)["input_values"], expected, atol=2e-3)
    one = processor(paths[0], text="normal")
    np.testing.assert_allclose(one["input_values"], expected[:1], atol=2e-3)
    mixed = processor([paths[0], records[1].signal], sampling_rate=200, leads=["V1", "II"], units="mV")
    np.testing.assert_allclose(mixed["input_values"], expected, atol=2e-3)


def test_metadata_are_handed_to_the_reader_of_files_that_lack_them(processor, tmp_path):
    ecg = make_ecg(500, leads=2)
    np.save(tmp_path / "bare.npy", ecg)
    inputs = processor(tmp_path / "bare.npy", sampling_rate=100, leads=["I", "V6"], units="mV")
    np.testing.assert_allclose(inputs["input_values"][0, [0, 11]], ecg, rtol=1e-6)


def test_a_missing_file_is_an_error_of_the_reader(processor, tmp_path):
    with pytest.raises(EcgFormatError, match=r"missing\.hea"):
        processor(tmp_path / "missing.hea")


def test_paths_without_the_package(processor, monkeypatch):
    monkeypatch.setitem(sys.modules, "modeling_merit.processing.readers", None)
    with pytest.raises(ImportError, match="from its folder or repository"):
        processor("record.hea")


@pytest.mark.real_data
def test_a_file_of_ptb_xl(processor, ptb_xl_dir):
    path = ptb_xl_dir / "records100" / "00000" / "00001_lr.hea"
    digital = np.fromfile(path.with_suffix(".dat"), "<i2").reshape(1000, 12).T
    inputs = processor(path, text="sinus rhythm", return_tensors="np")
    np.testing.assert_allclose(inputs["input_values"][0], digital / 1000, atol=1e-6)
    assert read_ecg(path).leads == STANDARD_LEADS and inputs["ecg_mask"].all()


# --- prompts --------------------------------------------------------------------------------------------------------


def test_placeholders_are_expanded(prompter):
    token = prompter.audio_token_id
    inputs = prompter(make_ecg(), "<|ecg|> normal", **METADATA, return_tensors="pt")
    assert inputs["input_ids"].tolist() == [[token] * 3 + [5]]
    two = prompter([make_ecg(), make_ecg()], "<|ecg|> sinus <|ecg|> normal", **METADATA)
    assert two["input_ids"] == [[token] * 3 + [3] + [token] * 3 + [5]]
    batch = prompter([make_ecg()] * 3, ["<|ecg|>", "<|ecg|> ecg <|ecg|>"], **METADATA)
    assert [ids.count(token) for ids in batch["input_ids"]] == [3, 6]
    assert batch["input_values"].shape == (3, 12, 1000)
    assert prompter(text="normal ecg")["input_ids"] == [[5, 6]]


@pytest.mark.parametrize(
    ("ecgs", "text"), [(1, "normal"), (2, "<|ecg|> normal"), (1, ["<|ecg|>", "<|ecg|>"]), (0, "<|ecg|>")]
)
def test_placeholders_must_match_the_ecgs(prompter, ecgs, text):
    found = text.count("<|ecg|>") if isinstance(text, str) else 2
    message = rf"{found} <\|ecg\|> tokens .*" + (f"and {ecgs} audio inputs" if ecgs else "no audio inputs were passed")
    with pytest.raises(ValueError, match=message):
        prompter([make_ecg()] * ecgs or None, text, **METADATA)


def test_truncation_never_cuts_an_ecg(prompter):
    prompt = "<|ecg|> " + "normal " * 10
    assert len(prompter(make_ecg(), prompt, **METADATA, max_length=5)["input_ids"][0]) == 5
    with pytest.raises(ValueError, match=r"Got ids=\[2\] and text=\[3\].*increase `max_length`"):
        prompter(make_ecg(), prompt, **METADATA, max_length=2)


def test_chat_template(prompter):
    ecg, token = make_ecg(), prompter.audio_token_id
    record = SimpleNamespace(signal=ecg, sampling_rate=100, leads=STANDARD_LEADS)
    content = [{"type": "ecg", "ecg": record}, {"type": "text", "text": "normal ecg"}]
    conversation = [{"role": "user", "content": content}]
    prompt = prompter.apply_chat_template(conversation)
    assert prompt == "<s>user : <|ecg|> normal ecg"
    by_hand = prompter(record, prompt, return_tensors="pt")
    inputs = prompter.apply_chat_template(conversation, tokenize=True, return_dict=True, return_tensors="pt")
    assert inputs["input_ids"].tolist() == by_hand["input_ids"].tolist() == [[2, 7, 8, token, token, token, 5, 6]]
    np.testing.assert_array_equal(inputs["input_values"][0], ecg)
    content[0]["ecg"] = ecg
    batch = [conversation, [{"role": "user", "content": [{"type": "text", "text": "sinus"}]}]]
    ids = prompter.apply_chat_template(batch, tokenize=True, processor_kwargs=METADATA)
    assert ids == [[2, 7, 8, token, token, token, 5, 6], [2, 7, 8, 3, 0, 0, 0, 0]]


def test_chat_template_marks_what_the_assistant_says(prompter):
    ecg, token = make_ecg(), prompter.audio_token_id
    template = (
        "{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}{{ message.content }}"
        "{% endgeneration %}{% else %}{% for block in message.content %}{% if block.type in ('ecg', 'audio') %}"
        "<|ecg|> {% else %}{{ block.text }} {% endif %}{% endfor %}{% endif %}{% endfor %}"
    )
    record = SimpleNamespace(signal=ecg, sampling_rate=100, leads=STANDARD_LEADS)
    for kind in ("ecg", "audio"):
        question = {"role": "user", "content": [{"type": kind, kind: record}, {"type": "text", "text": "ecg :"}]}
        inputs = prompter.apply_chat_template(
            [question, {"role": "assistant", "content": "sinus rhythm"}],
            chat_template=template,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            return_assistant_tokens_mask=True,
        )
        assert inputs["input_ids"].tolist() == [[token, token, token, 6, 8, 3, 4]]
        assert inputs["assistant_masks"].tolist() == [[0, 0, 0, 0, 0, 1, 1]]
        assert inputs["input_values"].shape[:2] == (1, 12) and "offset_mapping" not in inputs


# --- saving ---------------------------------------------------------------------------------------------------------


def test_save_and_load(prompter, tmp_path):
    prompter.save_pretrained(tmp_path)
    feature_extractor = MeritFeatureExtractor.from_pretrained(tmp_path, normalization="lead_zscore")
    assert feature_extractor.normalization == "lead_zscore"
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is MeritProcessor
    assert (loaded.ecg_token, loaded.num_ecg_tokens, loaded.chat_template) == ("<|ecg|>", 3, CHAT)
    expected = prompter(make_ecg(), "<|ecg|> normal", **METADATA)
    for key, value in loaded(make_ecg(), "<|ecg|> normal", **METADATA).items():
        np.testing.assert_array_equal(value, expected[key])


def test_a_processor_is_saved_after_its_feature_extractor_was_saved_alone(prompter, tmp_path):
    prompter.save_pretrained(tmp_path / "first")
    prompter.feature_extractor.save_pretrained(tmp_path / "alone")
    prompter.save_pretrained(tmp_path / "second")
    first, second = ((tmp_path / name / "processor_config.json").read_text() for name in ("first", "second"))
    assert first == second and '"AutoProcessor": "processing_merit.MeritProcessor"' in first
    assert "AutoProcessor" not in (tmp_path / "alone" / "preprocessor_config.json").read_text()


def test_importing_the_package_needs_no_optional_library():
    optional = ["matplotlib", "pydicom", "edfio", "defusedxml", "h5py", "soundfile", "gradio", "peft", "nltk"]
    code = f"import sys; sys.modules.update(dict.fromkeys({optional})); import modeling_merit.processing"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
