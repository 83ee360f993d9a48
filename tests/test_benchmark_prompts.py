"""Prompts: one for every class in both languages, prompt files, and their averages."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from modeling_merit.processing.benchmark.label_sets import class_names
from modeling_merit.processing.benchmark.prompts import (
    LABEL_SETS,
    average_prompts,
    check_prompts,
    flatten_prompts,
    load_prompts,
    read_prompt_file,
)
from modeling_merit.processing.data import normalize_report

TASKS = ("all", "diagnostic", "superclass", "subclass", "form", "rhythm", "cpsc2018", "csn")


@pytest.mark.parametrize("task", TASKS)
def test_every_class_has_prompts_in_both_languages(task):
    for language in ("en", "de"):
        prompts = load_prompts(task, [language])
        assert list(prompts) == class_names(task)
        for name, texts in prompts.items():
            assert len(texts) >= 3 and len(set(texts)) == len(texts), name
            assert all(text == text.strip().lower() and 2 <= len(text) <= 120 for text in texts), name
    assert list(load_prompts(task)) == class_names(task)


def test_prompts_of_different_statements_differ():
    prompts = load_prompts("all")
    first = {name: texts[0] for name, texts in prompts.items()}
    assert len(set(first.values())) == 71
    german = {name: texts[0] for name, texts in load_prompts("all", ["de"]).items()}
    assert (
        len(set(german.values())) >= 70
    )  # LVH and its voltage criteria may share words, no two statements a first text
    assert german["CLBBB"] == "linksschenkelblock" and german["AFLT"] == "vorhofflattern"


def test_names_without_underscores_find_their_prompts():
    assert list(load_prompts("subclass", class_names=["ISC", "AVB", "RAO/RAE"])) == ["ISC", "AVB", "RAO/RAE"]
    with pytest.raises(ValueError, match="XYZ"):
        load_prompts("rhythm", class_names=["SR", "XYZ"])
    with pytest.raises(ValueError, match="languages"):
        load_prompts("rhythm", ["sv"])
    with pytest.raises(ValueError, match="challenge2021"):
        load_prompts("challenge2021")


def test_prompt_files(tmp_path: Path):
    path = tmp_path / "prompts.json"
    path.write_text(
        json.dumps({"NST": "Non-specific ST changes", "LAFB": ["Left axis", " linksanteriorer Hemiblock "]})
    )
    prompts = read_prompt_file(path, ["LAFB", "NST_"])
    assert prompts == {"LAFB": ["left axis", "linksanteriorer hemiblock"], "NST_": ["non-specific st changes"]}
    with pytest.raises(ValueError, match="NORM"):
        read_prompt_file(path, ["NORM"])
    path.write_text(json.dumps({"NST": 3}))
    with pytest.raises(ValueError, match="JSON object"):
        read_prompt_file(path, ["NST_"])


def test_a_prompt_file_alone_says_its_classes(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text('{"b": "B", "a": ["A", "aa"]}', encoding="utf-8-sig")
    assert list(read_prompt_file(path).items()) == [("b", ["b"]), ("a", ["a", "aa"])]
    path.write_text('{"a": "x", "a": "y"}')
    with pytest.raises(ValueError, match="'a' is there more than once"):
        read_prompt_file(path)


@pytest.mark.parametrize("task", LABEL_SETS)
def test_own_prompts_have_a_meaning_to_the_published_model(task):
    tokenizer = AutoTokenizer.from_pretrained(Path(__file__).parent.parent / "hub_cards" / "merit-ecg")
    for languages in (("en", "de"), ("de",)):
        prompts = load_prompts(task, languages)
        normalized = {name: [normalize_report(text) for text in texts] for name, texts in prompts.items()}
        assert not [note for note in check_prompts(normalized, tokenizer) if "64 tokens" in note]


def test_notes_are_short(tiny_tokenizer):
    prompts = {str(i): [f"{i} {'sinus ' * 70}", f"{i} ☤"] for i in range(300)}
    notes = check_prompts(prompts, tiny_tokenizer)
    assert [note.split(" texts have ")[0] for note in notes] == ["300 of 600", "300 of 600"]
    assert all(len(note) < 400 for note in notes)


def test_a_tokenizer_without_an_unknown_token_and_without_a_limit():
    letters = Tokenizer(models.BPE({"[PAD]": 0, "a": 1, "b": 2}, []))  # leaves out what it does not know
    letters.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="[PAD]")
    assert check_prompts({"a": ["a " * 1000], "b": ["b"]}, tokenizer) == []
    with pytest.raises(ValueError, match="of which it knows none"):
        check_prompts({"a": ["?"], "b": ["b"]}, tokenizer)


@pytest.mark.real_data
@pytest.mark.parametrize("task", TASKS)
def test_ckepe_file_covers_every_task(task, data_dir):
    path = data_dir.parent / "protocol/merl/zeroshot/CKEPE_prompt.json"
    if not path.is_file():
        pytest.skip(f"no prompt file of the literature: {path}")
    assert list(read_prompt_file(path, class_names(task))) == class_names(task)


def test_averaged_prompts_are_unit_vectors():
    texts, owners = flatten_prompts(load_prompts("rhythm"))
    embeddings = np.random.default_rng(0).normal(size=(len(texts), 8)) * np.geomspace(1, 100, len(texts))[:, None]
    averaged = average_prompts(embeddings, owners)
    np.testing.assert_allclose(np.linalg.norm(averaged, axis=1), np.ones(12))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    mean = unit[owners == 3].mean(0)
    np.testing.assert_allclose(averaged[3], mean / np.linalg.norm(mean))


def test_package_data_carry_their_licence():
    folder = Path(__file__).parent.parent / "processing" / "benchmark"
    statements = json.loads((folder / "ptb_xl_statements.json").read_text(encoding="utf-8"))
    assert re.search("CC BY 4.0", statements["licence"]) and "Wagner" in statements["source"]
