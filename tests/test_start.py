"""What is imported when: files are read without torch; the `Auto*` classes know MERIT in every order of imports."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from script_server import run_script

from modeling_merit import __version__
from modeling_merit.processing import EcgRecord
from modeling_merit.processing.writers import write_ecg

REPOSITORY = Path(__file__).resolve().parent.parent
CHECKPOINT = REPOSITORY / "hub_cards" / "merit-ecg"
HEAVY = ("torch", "transformers", "datasets", "pandas", "sklearn", "matplotlib", "huggingface_hub")
KNOWN = f"""
import sys
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForMultimodalLM, AutoProcessor
import modeling_merit
assert type(AutoModel.from_pretrained({str(CHECKPOINT)!r})) is modeling_merit.MeritModel
assert type(AutoProcessor.from_pretrained({str(CHECKPOINT)!r})) is modeling_merit.MeritProcessor
assert type(AutoFeatureExtractor.from_pretrained({str(CHECKPOINT)!r})) is modeling_merit.MeritFeatureExtractor
assert type(AutoConfig.for_model("merit_generation")) is modeling_merit.MeritGenerationConfig
generation = AutoModelForMultimodalLM._model_mapping[modeling_merit.MeritGenerationConfig]
assert generation is modeling_merit.MeritForConditionalGeneration
assert modeling_merit.MeritForPreTraining._auto_class == "AutoModelForPreTraining"
assert modeling_merit.MeritForEcgClassification._auto_class == "AutoModelForSequenceClassification"
assert modeling_merit.MeritProcessor._auto_class == "AutoProcessor"
assert not any(type(finder).__module__.startswith("modeling_merit") for finder in sys.meta_path)
assert sys.modules["transformers"].__spec__.loader.__class__.__module__ != "modeling_merit.registration"
"""


# Those that neither transformers nor the package registers anything with; importing them takes most of the time.
NEUTRAL = ("torch", "torch._dynamo", "torch.distributed.tensor", "scipy.stats", "sklearn.linear_model", "pandas")
NEUTRAL += ("pyarrow.parquet", "huggingface_hub", "tokenizers", "safetensors.torch")


def run(*lines: str, arguments: tuple = ()) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "\n".join(lines), *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def loaded_by(*lines: str, arguments: tuple = ()) -> set[str]:
    """The heavy packages that a new process has imported after these lines."""
    end = "print('loaded:', *(name for name in " + repr(HEAVY) + " if name in sys.modules))"
    done = run("import sys", *lines, end, arguments=arguments)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].removeprefix("loaded:").split())


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with one ECG as each kind of file that can be written."""
    folder = tmp_path_factory.mktemp("files")
    signal = np.random.default_rng(0).normal(size=(2, 1000)).round(3)
    for suffix in (".hea", ".edf", ".npz", ".json", ".csv"):
        write_ecg(EcgRecord(signal, 500, ("I", "II")), folder / f"ecg{suffix}")
    return folder


@pytest.mark.parametrize(
    "module",
    ["", ".processing", ".processing.readers", ".processing.writers", ".processing.record", ".processing.cli"],
)
def test_light_modules(module):
    assert loaded_by(f"import modeling_merit{module}") == set()


def test_the_version_is_read_without_torch():
    assert loaded_by(f"import modeling_merit\nassert modeling_merit.__version__ == {__version__!r}") == set()


MAIN = """
from modeling_merit.processing.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
assert code == 0, code
"""


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version(option):
    assert loaded_by(MAIN, arguments=(option,)) == set()


def test_version_is_printed():
    done = subprocess.run(
        [sys.executable, "-m", "modeling_merit.processing.cli", "--version"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.stdout == f"merit-ecg {__version__}\n"


@pytest.mark.parametrize("suffix", [".hea", ".edf", ".npz", ".json", ".csv"])
def test_inspect_and_convert(files, tmp_path, suffix):
    # The package wfdb imports pandas and matplotlib; it is asked whether a text is the header of a record.
    allowed = {"pandas", "matplotlib"} if suffix in (".hea", ".json", ".csv") else set()
    file = files / f"ecg{suffix}"
    assert loaded_by(MAIN, arguments=("inspect", file, "--json")) <= allowed
    assert loaded_by(MAIN, arguments=("convert", file, tmp_path / "out.npz")) <= allowed


ORDERS = {
    "alone, then Auto classes": "import modeling_merit",
    "transformers first": "import transformers; import modeling_merit",
    "Auto classes first": "from transformers import AutoModel, AutoProcessor; import modeling_merit",
    "transformers as a module": "import modeling_merit; import transformers; transformers.AutoModel",
    "a public class": "from modeling_merit import MeritModel",
    "the feature extractor": "from modeling_merit.processing import MeritFeatureExtractor",
    "an attribute": "import modeling_merit; modeling_merit.processing.MeritProcessor",
    "configuration": "from modeling_merit.configuration_merit import PROMPTS",
    "model": "import modeling_merit.modeling_merit",
    "generation": "import modeling_merit.modeling_merit_generation",
    "pipelines": "import modeling_merit.pipelines_merit",
    "processor module": "import modeling_merit.processing.processing_merit",
    "feature extractor module": "import modeling_merit.processing.feature_extraction_merit",
    "readers, then the rest": "from modeling_merit.processing import read_ecg; import modeling_merit.processing.cli",
    "a base class": "import modeling_merit; from transformers import PreTrainedModel",
    "a submodule": "import modeling_merit; import transformers.models.auto.modeling_auto",
    "pipeline": "import modeling_merit; from transformers import pipeline",
    "Trainer": "import modeling_merit; from transformers import Trainer",
    "another package": "import modeling_merit; import accelerate, datasets, peft",
    "reloaded": "import modeling_merit, importlib; importlib.reload(modeling_merit)",
    "reloaded later": "import modeling_merit, importlib, transformers; importlib.reload(modeling_merit)",
    "found but not imported": "import modeling_merit, importlib.util; importlib.util.find_spec('transformers').origin",
    "unpickled": "import pickle; pickle.loads(b'cmodeling_merit.modeling_merit\\nMeritModel\\n.')",
}


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_registered_in_every_order_of_imports(order, tmp_path):
    if "peft" in ORDERS[order]:
        pytest.importorskip("peft")
    script = tmp_path / "order.py"
    script.write_text(ORDERS[order] + KNOWN)
    done = run_script(script, cwd=REPOSITORY, libraries=NEUTRAL)
    assert done.returncode == 0, done.stderr


def test_pickles_and_copies_of_a_class_are_the_class():
    import pickle

    import modeling_merit

    assert pickle.loads(pickle.dumps(modeling_merit.MeritModel)) is modeling_merit.MeritModel
    with pytest.raises(AttributeError, match="no attribute 'MeritTower'"):
        modeling_merit.MeritTower  # noqa: B018
    assert set(modeling_merit.__all__) <= set(dir(modeling_merit))


@pytest.mark.parametrize("package", ["transformers", "torch"])
def test_a_missing_package_is_named_where_it_is_needed(package):
    """Reading goes on without it; what needs it fails with its name, each time that it is tried."""
    block = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import modeling_merit
from modeling_merit.processing import read_ecg
for _ in range(2):
    try:
        from modeling_merit import MeritModel
    except ImportError as error:
        print(error)
"""
    done = run(block)
    assert done.returncode == 0, done.stderr
    messages = done.stdout.splitlines()
    assert len(messages) == 2 and all(package in message.lower().replace("pytorch", "torch") for message in messages)
