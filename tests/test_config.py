"""Configurations: every documented field exists, is checked, and survives saving."""

import dataclasses
import re

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from tiny_models import ecg_config, merit_config
from transformers import AutoConfig, PreTrainedConfig

from modeling_merit import MeritConfig, MeritEcgConfig, MeritForPreTraining
from modeling_merit.configuration_merit import SIZES


def documented(config_class: type) -> list[str]:
    return re.findall(r"^ {8}(\w+) \(", config_class.__doc__, flags=re.MULTILINE)


FIELDS = [(config_class, name) for config_class in (MeritEcgConfig, MeritConfig) for name in documented(config_class)]


def test_docstrings_name_all_own_fields():
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    for config_class, shared in ((MeritEcgConfig, {"auto_map"}), (MeritConfig, {"auto_map"})):
        own = {field.name for field in dataclasses.fields(config_class)} - inherited - shared
        assert set(documented(config_class)) == own
    assert len(FIELDS) == 33


@pytest.mark.parametrize("config_class, name", FIELDS)
def test_fields_are_type_checked(config_class, name):
    with pytest.raises(StrictDataclassFieldValidationError, match=f"'{name}'"):
        setattr(config_class(), name, 1j)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ecg_config(num_attention_heads=3), "`num_attention_heads` divides, got 16 and 3"),
        (lambda: ecg_config(hidden_size=15, num_attention_heads=3), "even `hidden_size`"),
        (lambda: ecg_config(leads=["I", "II", "I"]), "name every row once"),
        (lambda: ecg_config(leads=[]), "name every row once"),
        (lambda: ecg_config(patch_length=0), "`patch_length` above 0, got 0"),
        (lambda: ecg_config(sampling_rate=-100), "`sampling_rate` above 0, got -100"),
        (lambda: ecg_config(min_wavelength=2, max_wavelength=1), "`max_wavelength` of at least"),
        (lambda: ecg_config(window_seconds=2.3), "whole number of patches of 50 samples at 100 Hz, got 2.3 s"),
        (lambda: ecg_config(min_patch_coverage=0), "`min_patch_coverage` above 0 and at most 1, got 0"),
        (lambda: merit_config(alignment_view="half"), "'full' or 'masked', got 'half'"),
        (lambda: merit_config(text_pooling="max"), "'mean' or 'cls', got 'max'"),
        (lambda: merit_config(mask_ratio=1.0), "between 0 and 1, got 1.0"),
        (lambda: merit_config(mask_ratio=0), "between 0 and 1, got 0"),
        (lambda: merit_config(contrastive_weight=-1.0), "of at least 0, not both 0"),
        (lambda: merit_config(contrastive_weight=0.0, reconstruction_weight=0.0), "of at least 0, not both 0"),
        (lambda: merit_config(decoder_num_attention_heads=3), "`decoder_num_attention_heads` divides, got 16 and 3"),
    ],
)
def test_wrong_values_are_named(make, message):
    with pytest.raises((StrictDataclassClassValidationError, ValueError), match=re.escape(message)):
        make()


def test_wrong_types_are_named():
    with pytest.raises(StrictDataclassFieldValidationError, match="'hidden_size' expected int, got str"):
        MeritEcgConfig(hidden_size="768")


def test_configurations_survive_saving(tmp_path):
    config = merit_config(ecg={"leads": ["II", "V1"], "patch_length": 25}, mask_ratio=0.5, text_pooling="cls")
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, MeritConfig) and isinstance(loaded.ecg_config, MeritEcgConfig)
    assert loaded.ecg_config.leads == ["II", "V1"] and loaded.ecg_config.patch_length == 25
    assert loaded.text_config.model_type == "bert" and loaded.text_config.vocab_size == 104
    assert (loaded.mask_ratio, loaded.text_pooling) == (0.5, "cls")
    assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()
    assert MeritEcgConfig.from_pretrained(tmp_path).leads == ["II", "V1"]


def test_defaults_are_the_reference_architecture():
    config = MeritConfig()
    ecg = config.ecg_config
    assert (ecg.hidden_size, ecg.num_hidden_layers, ecg.num_attention_heads, ecg.intermediate_size) == (
        768,
        12,
        12,
        3072,
    )
    assert (len(ecg.leads), ecg.sampling_rate, ecg.patch_length, config.mask_ratio) == (12, 100, 50, 0.75)
    assert (config.decoder_hidden_size, config.decoder_num_hidden_layers, config.decoder_num_attention_heads) == (
        256,
        4,
        4,
    )
    assert config.projection_dim == 256 and config.alignment_view == "full" and config.logit_scale_max == 100
    assert torch.tensor(config.logit_scale_init_value).exp().item() == pytest.approx(1 / 0.07, rel=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_named_sizes_have_the_documented_parameters(size):
    row = next(line for line in MeritConfig.from_size.__doc__.splitlines() if f'`"{size}"` |' in line)
    documented_millions = [float(count) for count in re.findall(r"[\d.]+", row.split("|")[-2])]
    with torch.device("meta"):
        model = MeritForPreTraining(MeritConfig.from_size(size))
    parts = (model.merit.ecg_model, model.decoder, model.merit.text_model, model)
    millions = [sum(parameter.numel() for parameter in part.parameters()) / 1e6 for part in parts]
    assert millions == pytest.approx(documented_millions, rel=0.01)


def test_fields_win_over_those_of_the_size():
    config = MeritConfig.from_size(
        "tiny", ecg_config={"patch_length": 25}, text_config={"vocab_size": 99}, decoder_hidden_size=64, mask_ratio=0.5
    )
    ecg, text = config.ecg_config, config.text_config
    assert (ecg.patch_length, ecg.hidden_size, ecg.num_hidden_layers, ecg.intermediate_size) == (25, 128, 4, 512)
    assert (text.model_type, text.vocab_size, text.hidden_size, text.num_hidden_layers) == ("bert", 99, 128, 3)
    assert (config.decoder_hidden_size, config.decoder_num_hidden_layers, config.mask_ratio) == (64, 2, 0.5)
    whole = {"model_type": "distilbert", "dim": 16, "n_heads": 2}
    for text_config in (whole, AutoConfig.for_model(**whole)):
        assert MeritConfig.from_size("tiny", text_config=text_config).text_config.dim == 16


def test_the_base_size_is_the_default():
    assert MeritConfig.from_size("base").to_dict() == MeritConfig().to_dict()


def test_an_unknown_size_is_named():
    with pytest.raises(ValueError, match="a size of tiny, small, base, got 'large'"):
        MeritConfig.from_size("large")
