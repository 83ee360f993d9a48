"""Configurations: every documented field exists, is checked, and survives saving."""

import dataclasses
import re

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from tiny_models import ecg_config, merit_config
from transformers import AutoConfig, PreTrainedConfig

from modeling_merit import MeritConfig, MeritEcgConfig, MeritEcgModel, MeritForPreTraining
from modeling_merit.configuration_merit import SIZES


def documented(config_class: type) -> list[str]:
    arguments = config_class.__doc__.split("Attributes:")[0]
    return re.findall(r"^ {8}(\w+) \(", arguments, flags=re.MULTILINE)


FIELDS = [(config_class, name) for config_class in (MeritEcgConfig, MeritConfig) for name in documented(config_class)]


def test_docstrings_name_all_own_fields():
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    for config_class, shared in ((MeritEcgConfig, {"auto_map"}), (MeritConfig, {"auto_map"})):
        own = {field.name for field in dataclasses.fields(config_class)} - inherited - shared
        assert set(documented(config_class)) == own
    assert len(FIELDS) == 30


@pytest.mark.parametrize("config_class, name", FIELDS)
def test_fields_are_type_checked(config_class, name):
    with pytest.raises(StrictDataclassFieldValidationError, match=f"'{name}'"):
        setattr(config_class(), name, 1j)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ecg_config(depths=[1]), "one of `depths` for each of `hidden_sizes`, got [1] and [8, 16]"),
        (lambda: ecg_config(depths=[], hidden_sizes=[]), "one of `depths` for each of `hidden_sizes`, got [] and []"),
        (lambda: ecg_config(hidden_sizes=[8, 0]), "`hidden_sizes` above 0, got [8, 0]"),
        (lambda: ecg_config(depths=[0, 1]), "`depths` above 0, got [0, 1]"),
        (lambda: ecg_config(embedding_size=0), "`embedding_size` above 0, got 0"),
        (lambda: ecg_config(pooler_stages=5), "`pooler_stages` of 1 to 2, the stages that there are, got 5"),
        (lambda: ecg_config(kernel_size=4), "an odd `kernel_size`, got 4"),
        (lambda: ecg_config(kernel_size=-1), "an odd `kernel_size`, got -1"),
        (lambda: ecg_config(drop_path_rate=1.0), "at least 0 and below 1, got 1.0 and 0.0"),
        (lambda: ecg_config(hidden_dropout=-0.1), "at least 0 and below 1, got 0.0 and -0.1"),
        (lambda: ecg_config(leads=["I", "II", "I"]), "name every row once"),
        (lambda: ecg_config(leads=[]), "name every row once"),
        (lambda: ecg_config(sampling_rate=-100), "`sampling_rate` above 0, got -100"),
        (lambda: ecg_config(window_seconds=2.5), "patches of 8 samples at 100 Hz, got 2.5 s, which is 250 samples"),
        (lambda: ecg_config(window_seconds=0), "whole number of patches of 8 samples at 100 Hz, got 0 s"),
        (lambda: merit_config(text_pooling="max"), "'mean' or 'cls', got 'max'"),
        (lambda: merit_config(mask_ratio=1.0), "between 0 and 1, got 1.0"),
        (lambda: merit_config(mask_ratio=0), "between 0 and 1, got 0"),
        (lambda: merit_config(contrastive_weight=-1.0), "of at least 0, not all 0"),
        (lambda: merit_config(word_weight=-1.0), "of at least 0, not all 0"),
        (lambda: merit_config(num_words=-1), "of at least 0, not all 0"),
        (lambda: merit_config(contrastive_weight=0.0, reconstruction_weight=0.0), "0.1 with 0 words"),
        (lambda: merit_config(max_ngram=0), "`max_ngram` of at least 1"),
        (lambda: merit_config(max_ngram=10), "phrases of 104 tokens fit 63 bits, got 10"),
    ],
)
def test_wrong_values_are_named(make, message):
    with pytest.raises((StrictDataclassClassValidationError, ValueError), match=re.escape(message)):
        make()


def test_wrong_types_are_named():
    with pytest.raises(StrictDataclassFieldValidationError, match="'kernel_size' expected int, got str"):
        MeritEcgConfig(kernel_size="5")


def test_configurations_survive_saving(tmp_path):
    config = merit_config(
        ecg={"leads": ["II", "V1"], "window_seconds": 2.56}, mask_ratio=0.3, text_pooling="cls", num_words=7
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, MeritConfig) and isinstance(loaded.ecg_config, MeritEcgConfig)
    assert loaded.ecg_config.leads == ["II", "V1"] and loaded.ecg_config.window_length == 256
    assert loaded.text_config.model_type == "bert" and loaded.text_config.vocab_size == 104
    assert (loaded.mask_ratio, loaded.text_pooling, loaded.num_words) == (0.3, "cls", 7)
    assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()
    assert MeritEcgConfig.from_pretrained(tmp_path).leads == ["II", "V1"]


def test_defaults_are_the_reference_architecture():
    config = MeritConfig()
    ecg = config.ecg_config
    assert (ecg.embedding_size, ecg.hidden_sizes, ecg.depths) == (32, [64, 128, 192, 256], [2, 2, 2, 2])
    assert (len(ecg.leads), ecg.sampling_rate, ecg.kernel_size, config.mask_ratio) == (12, 100, 5, 0.5)
    assert (config.decoder_hidden_size, config.decoder_num_hidden_layers) == (256, 2)
    assert config.projection_dim == 256 and config.logit_scale_max == 100
    assert (config.reconstruction_weight, config.contrastive_weight, config.word_weight) == (1.0, 1.0, 0.1)
    assert torch.tensor(config.logit_scale_init_value).exp().item() == pytest.approx(1 / 0.07, rel=1e-4)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_properties_follow_from_the_stages(stages):
    config = ecg_config(hidden_sizes=list(range(8, 8 + stages)), depths=[1] * stages, window_seconds=3.2)
    assert config.patch_length == 4 * 2 ** (stages - 1)
    assert (config.hidden_size, config.pooler_size) == (7 + stages, 2 * (7 + stages))
    assert config.window_length == 320 and ecg_config().window_length is None
    output = MeritEcgModel(config).eval()(torch.zeros(1, 12, 320))
    assert output.last_hidden_state.shape == (1, 320 // config.patch_length, config.hidden_size)
    assert output.pooler_output.shape == (1, config.pooler_size)


def test_properties_are_not_saved():
    """They follow from fields: saved ones could contradict them."""
    assert {"patch_length", "hidden_size", "aligned_size", "pooler_size", "window_length"}.isdisjoint(
        ecg_config().to_dict()
    )


@pytest.mark.parametrize("size", SIZES)
def test_named_sizes_have_the_documented_parameters(size):
    row = next(line for line in MeritConfig.from_size.__doc__.splitlines() if f'`"{size}"` |' in line)
    documented_millions = [float(count) for count in re.findall(r"[\d.]+", row.split("|")[-2])]
    with torch.device("meta"):
        model = MeritForPreTraining(MeritConfig.from_size(size))
    parts = (model.merit.ecg_model, model.decoder, model.merit.text_model, model)
    millions = [sum(parameter.numel() for parameter in part.parameters()) / 1e6 for part in parts]
    assert millions == pytest.approx(documented_millions, rel=0.01, abs=0.005)


def test_fields_win_over_those_of_the_size():
    config = MeritConfig.from_size(
        "tiny", ecg_config={"kernel_size": 7}, text_config={"vocab_size": 99}, decoder_hidden_size=32, mask_ratio=0.4
    )
    ecg, text = config.ecg_config, config.text_config
    assert (ecg.kernel_size, ecg.embedding_size, ecg.hidden_sizes, ecg.depths) == (7, 16, [16, 24, 32, 48], [1] * 4)
    assert (text.model_type, text.vocab_size, text.hidden_size, text.num_hidden_layers) == ("bert", 99, 64, 2)
    assert (config.decoder_hidden_size, config.decoder_num_hidden_layers, config.mask_ratio) == (32, 1, 0.4)
    whole = {"model_type": "distilbert", "dim": 16, "n_heads": 2}
    for text_config in (whole, AutoConfig.for_model(**whole)):
        assert MeritConfig.from_size("tiny", text_config=text_config).text_config.dim == 16


def test_sizes_do_not_share_their_lists():
    MeritConfig.from_size("tiny").ecg_config.hidden_sizes.append(1)
    assert MeritConfig.from_size("tiny").ecg_config.hidden_sizes == [16, 24, 32, 48]
    MeritEcgConfig().depths.append(1)
    assert MeritEcgConfig().depths == [2, 2, 2, 2]


def test_the_small_size_is_the_default_encoder():
    assert MeritConfig.from_size("small").ecg_config.to_dict() == MeritEcgConfig().to_dict()


def test_an_unknown_size_is_named():
    with pytest.raises(ValueError, match="a size of tiny, small, base, got 'large'"):
        MeritConfig.from_size("large")
