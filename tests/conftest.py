"""Fixtures shared by the tests: real data where there is some, a tiny tokenizer, a Hub on the loopback interface.

Fixtures import torch and transformers themselves: tests that need neither start without them.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from loopback_hub import LoopbackHub
from toy_ptb_xl import write_toy_ptb_xl

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# A busy machine is not a fault of the code under test.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

REPOSITORY = Path(__file__).resolve().parent.parent
WORDS = ["sinus", "rhythm", "normal", "ecg", "atrial", "fibrillation", "left", "right", "bundle", "branch", "block"]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with `ptb-xl/`, `formats/` and `external/`: $MERIT_DATA_DIR, else `../shared/data`."""
    folder = Path(os.environ.get("MERIT_DATA_DIR", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "unpack_ptb_xl.py").is_file():
        pytest.skip(f"no real recordings in {folder}: set MERIT_DATA_DIR to the folder that holds unpack_ptb_xl.py")
    return folder


@pytest.fixture(scope="session")
def ptb_xl_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PTB-XL folder: $MERIT_PTB_XL_DIR, else one with the records below 1000 and above 20999, for this session."""
    if "MERIT_PTB_XL_DIR" in os.environ:
        return Path(os.environ["MERIT_PTB_XL_DIR"])
    script = request.getfixturevalue("data_dir") / "unpack_ptb_xl.py"
    folder = tmp_path_factory.mktemp("ptb-xl")
    subprocess.run([sys.executable, script, folder, "--bins", "0", "21"], check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer() -> "PreTrainedTokenizerFast":
    """A lower-casing WordPiece tokenizer of 104 tokens that can spell. Shared by all tests: copy it to change it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyzäöü0123456789"
    tokens = dict.fromkeys([*special, *WORDS, *letters, *(f"##{letter}" for letter in letters), *".,:;()/-+"])
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


@pytest.fixture(scope="session")
def checkpoint(tiny_tokenizer: "PreTrainedTokenizerFast", tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny model that compares ECGs with texts, of random weights, and its processor."""
    from tiny_models import build, merit_config

    from modeling_merit import MeritModel
    from modeling_merit.processing import MeritFeatureExtractor, MeritProcessor

    folder = tmp_path_factory.mktemp("checkpoint")
    build(MeritModel, merit_config()).save_pretrained(folder)
    MeritProcessor(MeritFeatureExtractor(), tiny_tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def report_checkpoint(tiny_tokenizer: "PreTrainedTokenizerFast", tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny model that writes reports, of random weights, and its processor."""
    from tiny_models import ENCODER, TRANSFORMER, build
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from modeling_merit import MeritForConditionalGeneration, MeritGenerationConfig
    from modeling_merit.processing import MeritFeatureExtractor, MeritProcessor

    copy = Tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=copy, pad_token="[PAD]", unk_token="[UNK]")
    ids = {"vocab_size": len(tokenizer), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|ecg|>"]})
    config = MeritGenerationConfig(ecg_config=ENCODER, text_config=TRANSFORMER | ids, num_ecg_tokens=12)
    folder = tmp_path_factory.mktemp("report_checkpoint")
    build(MeritForConditionalGeneration, config, seed=2).save_pretrained(folder)
    MeritProcessor(MeritFeatureExtractor(), tokenizer, num_ecg_tokens=12).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def loopback_hub() -> Iterator[LoopbackHub]:
    """An empty Hub; run the code under test in a process with `env=loopback_hub.environment(tmp_path)`."""
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope="session")
def toy_ptb_xl_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up PTB-XL folder of `toy_ptb_xl.py`; copy it before damaging it."""
    folder = tmp_path_factory.mktemp("toy-ptb-xl")
    write_toy_ptb_xl(folder)
    return folder
