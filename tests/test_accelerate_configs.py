"""The configurations for `accelerate launch`: what they name exists."""

from pathlib import Path

import pytest
import torch
import transformers
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import FullyShardedDataParallelPlugin

import modeling_merit.modeling_merit

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "examples" / "accelerate_configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_it(path):
    config = load_config_from_file(str(path))  # refuses a field it does not know
    assert config.num_processes > 1 and config.mixed_precision in ("no", "bf16")


def test_sharded_layers_exist(monkeypatch):
    config = load_config_from_file(str(ROOT / "examples/accelerate_configs/fsdp2.yaml")).fsdp_config
    for name, value in config.items():
        monkeypatch.setenv(name.upper(), str(value))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert FullyShardedDataParallelPlugin().fsdp_version == 2
    bert = transformers.models.bert.modeling_bert
    for name in config["fsdp_transformer_layer_cls_to_wrap"].split(","):
        assert issubclass(getattr(modeling_merit.modeling_merit, name, None) or getattr(bert, name), torch.nn.Module)
