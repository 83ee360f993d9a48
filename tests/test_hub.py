"""Sharing a model: with the package, without it (code from the Hub), and through a Hub on the loopback interface."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loopback_hub import LoopbackHub
from safetensors.torch import load_file, save_file
from tiny_models import build, ecg_config, ecgs, merit_config
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, AutoProcessor

import modeling_merit
from modeling_merit import (
    MeritConfig,
    MeritEcgConfig,
    MeritEcgModel,
    MeritFeatureExtractor,
    MeritForPreTraining,
    MeritModel,
    MeritProcessor,
)

REPOSITORY = Path(__file__).resolve().parent.parent
CHECKPOINT = REPOSITORY / "hub_cards" / "merit-ecg"
LEADS = MeritEcgConfig().leads
FACTS = {"sampling_rate": 100, "leads": LEADS, "units": "mV"}
TEXT = ["sinus rhythm", "atrial fibrillation"]

PUSH = """
import sys
from modeling_merit import MeritEcgModel, MeritForPreTraining, MeritProcessor
MeritForPreTraining.from_pretrained(sys.argv[1]).push_to_hub("merit-ecg")
MeritProcessor.from_pretrained(sys.argv[1]).push_to_hub("merit-ecg")
MeritEcgModel.from_pretrained(sys.argv[1]).push_to_hub("merit-encoder")
"""
# Arguments: a file of ECGs, a file for the result, and where to load from.
LOAD = """
import sys
sys.modules["modeling_merit"] = None  # as if the package were not installed
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, AutoProcessor

ecgs, leads, result = load_file(sys.argv[1])["ecgs"], sys.argv[2].split(), {}
for source in sys.argv[4:]:
    options = {"trust_remote_code": True}
    facts = {"sampling_rate": 100, "leads": leads, "units": "mV", "return_tensors": "pt"}
    if not source.endswith("encoder"):
        inputs = AutoProcessor.from_pretrained(source, **options)(
            list(ecgs.numpy()), ["sinus rhythm", "atrial fibrillation"], **facts
        )
        same = AutoFeatureExtractor.from_pretrained(source, **options)(list(ecgs.numpy()), **facts)
        assert torch.equal(same["input_values"], inputs["input_values"])
        model = AutoModel.from_pretrained(source, **options)
        output = model(**inputs)
        result[f"{source} ecg"], result[f"{source} text"] = output.ecg_embeds, output.text_embeds
        pre_training = AutoModelForPreTraining.from_pretrained(source, **options)
        assert type(pre_training).__name__ == "MeritForPreTraining" and type(model).__name__ == "MeritModel"
        torch.manual_seed(0)
        result[f"{source} reconstruction"] = pre_training.eval()(**inputs).reconstruction
    else:
        model = AutoModel.from_pretrained(source, **options)
        assert type(model).__name__ == "MeritEcgModel"
        result[f"{source} pooled"] = model(ecgs).pooler_output
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    assert type(AutoConfig.from_pretrained(source, **options)).__module__.startswith("transformers_modules.")
save_file({name: value.detach().contiguous() for name, value in result.items()}, sys.argv[3])
"""


@pytest.fixture(scope="module")
def model() -> MeritForPreTraining:
    return build(MeritForPreTraining, merit_config(num_words=6))


@pytest.fixture(scope="module")
def folders(model, tiny_tokenizer, tmp_path_factory) -> dict[str, Path]:
    """A pre-training checkpoint with its processor, as `examples/pretrain.py` saves it, and an ECG encoder."""
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder / "merit-ecg")
    MeritProcessor(MeritFeatureExtractor(), tiny_tokenizer).save_pretrained(folder / "merit-ecg")
    model.merit.ecg_model.save_pretrained(folder / "merit-encoder")
    return {"merit-ecg": folder / "merit-ecg", "merit-encoder": folder / "merit-encoder"}


def run(script: str, environment: dict[str, str], *arguments: str | Path) -> None:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def expected(model: MeritForPreTraining, processor: MeritProcessor) -> dict[str, torch.Tensor]:
    inputs = processor(list(ecgs().numpy()), TEXT, **FACTS, return_tensors="pt")
    torch.manual_seed(0)
    reconstruction = model(**inputs).reconstruction
    output = model.merit(**inputs)
    pooled = model.merit.ecg_model(ecgs()).pooler_output
    return {"ecg": output.ecg_embeds, "text": output.text_embeds, "reconstruction": reconstruction, "pooled": pooled}


@pytest.mark.parametrize(
    "auto_class, config, registered",
    [
        (AutoModel, merit_config(), MeritModel),
        (AutoModel, ecg_config(), MeritEcgModel),
        (AutoModelForPreTraining, merit_config(), MeritForPreTraining),
    ],
)
def test_models_are_registered(auto_class, config, registered):
    assert type(auto_class.from_config(config)) is registered


def test_configurations_are_registered():
    assert type(AutoConfig.for_model("merit")) is MeritConfig
    assert type(AutoConfig.for_model("merit_ecg_encoder")) is MeritEcgConfig


def test_everything_loads_by_name_with_the_package(model, folders):
    folder = folders["merit-ecg"]
    assert type(AutoFeatureExtractor.from_pretrained(folder)) is MeritFeatureExtractor
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor) is MeritProcessor
    inputs = processor(list(ecgs().numpy()), TEXT, **FACTS, return_tensors="pt")
    loaded = AutoModel.from_pretrained(folder)
    assert torch.equal(loaded(**inputs).ecg_embeds, model.merit(**inputs).ecg_embeds)
    assert torch.equal(loaded(**inputs).text_embeds, model.merit(**inputs).text_embeds)


def test_public_names():
    assert all(hasattr(modeling_merit, name) for name in modeling_merit.__all__)
    assert modeling_merit.__version__ == "0.1.0"


LOAD_FOLDER = """
import sys
sys.modules["modeling_merit"] = None  # as if the package were not installed
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel, AutoProcessor

ecgs = list(load_file(sys.argv[1])["ecgs"].numpy())
facts = {"sampling_rate": 100, "leads": sys.argv[2].split(), "units": "mV", "return_tensors": "pt"}
source, options = sys.argv[4], {"trust_remote_code": True}
model = AutoModel.from_pretrained(source, **options)
processor = AutoProcessor.from_pretrained(source, **options)
extracted = AutoFeatureExtractor.from_pretrained(source, **options)(ecgs, **facts)
for each in (model, processor, processor.feature_extractor):
    assert type(each).__module__.startswith("transformers_modules."), type(each)
with torch.no_grad():
    output = model(**processor(ecgs, ["sinusrhythmus", "vorhofflimmern"], **facts))
    same = model.get_ecg_features(**extracted).pooler_output
save_file({"ecg": output.ecg_embeds, "text": output.text_embeds, "extracted": same}, sys.argv[3])
"""


@pytest.mark.slow
def test_the_folder_to_publish_loads_without_the_package(tmp_path):
    """`make hub`: equal embeddings, from code that the folder alone holds."""
    folder = tmp_path / "hub" / "merit-ecg"
    command = [sys.executable, "hub_cards/make_hub_folder.py", "--model", str(CHECKPOINT), "--output", str(folder)]
    for _ in range(2):  # the second time over the first
        subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    code = {"configuration_merit.py", "modeling_merit.py", "objective_merit.py", "processing_merit.py"}
    code |= {"feature_extraction_merit.py", "leads.py", "resampling.py", "signal_quality.py", "units.py"}
    code |= {"conditioning.py", "inference_merit.py", "pipelines_merit.py", "reading_merit.py", "tasks_merit.py"}
    code |= {"handler.py", "requirements.txt"}
    present = {path.name for path in CHECKPOINT.iterdir()}
    assert {path.name for path in folder.iterdir()} == present | code
    assert (folder / "README.md").read_bytes() == (CHECKPOINT / "README.md").read_bytes()
    save_file({"ecgs": ecgs()}, tmp_path / "ecgs.safetensors")
    arguments = [tmp_path / "ecgs.safetensors", " ".join(LEADS), tmp_path / "result.safetensors", folder]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run(LOAD_FOLDER, environment | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}, *arguments)
    result = load_file(tmp_path / "result.safetensors")
    model, processor = AutoModel.from_pretrained(CHECKPOINT), AutoProcessor.from_pretrained(CHECKPOINT)
    with torch.no_grad():
        texts = ["sinusrhythmus", "vorhofflimmern"]
        output = model(**processor(list(ecgs().numpy()), texts, **FACTS, return_tensors="pt"))
    assert torch.equal(result["ecg"], output.ecg_embeds) and torch.equal(result["text"], output.text_embeds)
    assert torch.equal(result["extracted"], output.ecg_embeds)


@pytest.mark.slow
def test_push_and_load_without_the_package(model, folders, tmp_path):
    """Pushed, then loaded in a process without the package, from the Hub and from the folders: bit-equal outputs."""
    save_file({"ecgs": ecgs()}, tmp_path / "ecgs.safetensors")
    with LoopbackHub() as hub:
        run(PUSH, hub.environment(tmp_path / "pusher"), folders["merit-ecg"])
        files = set(hub.files("me/merit-ecg"))
        assert {"config.json", "model.safetensors", "modeling_merit.py", "objective_merit.py"} <= files
        assert {"processing_merit.py", "feature_extraction_merit.py", "conditioning.py", "tokenizer.json"} <= files
        sources = ["me/merit-ecg", "me/merit-encoder", folders["merit-ecg"], folders["merit-encoder"]]
        arguments = [tmp_path / "ecgs.safetensors", " ".join(LEADS), tmp_path / "result.safetensors", *sources]
        run(LOAD, hub.environment(tmp_path / "loader"), *arguments)
        assert any("me/merit-ecg/resolve" in request for request in hub.requests)
    results = load_file(tmp_path / "result.safetensors")
    wanted = expected(model, MeritProcessor.from_pretrained(folders["merit-ecg"]))
    assert len(results) == 2 * len(wanted) == 8
    for name, value in results.items():
        assert torch.equal(value, wanted[name.split()[-1]]), name
