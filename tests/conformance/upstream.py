"""The common test suites of transformers, imported from the folder that `fetch.py` filled.

The source distribution holds `tests/*.py` but not its sub-folders, so four modules that these files import are put in
their place here: those of `utils/`, and the suites `generation/test_utils.py` and `exporters/test_export.py`. A
checkout of the transformers repository at the installed version has all of them; name it in the environment variable
TRANSFORMERS_REPOSITORY to run those two suites as well, beside our own tests of generation.
"""

import os
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent.parent
REPOSITORY = os.environ.get("TRANSFORMERS_REPOSITORY")
SUITES = ROOT / "build" / "conformance" / "transformers_tests"

# Fields that every configuration has, with values other than their defaults.
COMMON_FIELDS = {
    "return_dict": False,
    "output_hidden_states": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["Model"],
    "finetuning_task": "task",
    "id2label": {0: "normal", 1: "abnormal"},
    "label2id": {"normal": 0, "abnormal": 1},
    "problem_type": "regression",
}


class _NotInTheSourceDistribution:
    """In place of a mixin that cannot be imported: it adds no test."""


def _stand_in(name: str, **contents: object) -> None:
    module = ModuleType(name)
    vars(module).update(contents)
    sys.modules[name] = module


if REPOSITORY:
    PACKAGE = "tests"
    sys.path.insert(0, REPOSITORY)
else:
    if not SUITES.is_dir():
        raise FileNotFoundError(f"Expected the suites of transformers in {SUITES}: run `make test-conformance`.")
    PACKAGE = SUITES.name
    sys.path.insert(0, str(SUITES.parent))
    for folder in ("exporters", "generation", "utils"):
        _stand_in(f"{PACKAGE}.{folder}", __path__=[])
    _stand_in(f"{PACKAGE}.exporters.test_export", ExportTesterMixin=_NotInTheSourceDistribution)
    _stand_in(
        f"{PACKAGE}.generation.test_utils",
        GenerationTesterMixin=type("GenerationTesterMixin", (_NotInTheSourceDistribution,), {}),
    )
    _stand_in(f"{PACKAGE}.utils.test_configuration_utils", config_common_kwargs=COMMON_FIELDS)
    _stand_in("fetch_hub_objects_for_ci", url_to_local_path=lambda url: url)

import importlib  # noqa: E402

modeling = importlib.import_module(f"{PACKAGE}.test_modeling_common")
configuration = importlib.import_module(f"{PACKAGE}.test_configuration_common")
feature_extraction = importlib.import_module(f"{PACKAGE}.test_sequence_feature_extraction_common")
processing = importlib.import_module(f"{PACKAGE}.test_processing_common")
