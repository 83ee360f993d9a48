"""Registration of MERIT with the `Auto*` classes of transformers, put off until transformers is imported.

transformers and torch take seconds to import, which reading an ECG file does not need, and transformers has no entry
points. So importing `modeling_merit` registers at once where transformers is loaded, and otherwise leaves a finder on
`sys.meta_path` that registers as soon as transformers is. transformers loads its own modules when their names are
used, so nothing in it is half imported at that time. A module of MERIT that is imported before transformers is
waited for. Where a thread says `from transformers import ...` while another one imports transformers for the first
time, it gets the module that transformers then replaces, and fails, with or without MERIT: import it in one of them
first.
"""

import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = __package__
WATCHED = {
    "transformers",
    f"{PACKAGE}.configuration_merit",
    f"{PACKAGE}.modeling_merit",
    f"{PACKAGE}.modeling_merit_generation",
    f"{PACKAGE}.pipelines_merit",
    f"{PACKAGE}.processing.feature_extraction_merit",
    f"{PACKAGE}.processing.processing_merit",
}


def register() -> None:
    """Register the classes of MERIT with the `Auto*` classes, and its tasks with `transformers.pipeline`."""
    import transformers
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoModel,
        AutoModelForAudioClassification,
        AutoModelForMultimodalLM,
        AutoModelForPreTraining,
        AutoModelForSequenceClassification,
        AutoProcessor,
    )
    from transformers.pipelines import PIPELINE_REGISTRY

    from . import pipelines_merit
    from .configuration_merit import MeritConfig, MeritEcgConfig, MeritGenerationConfig
    from .modeling_merit import MeritEcgModel, MeritForEcgClassification, MeritForPreTraining, MeritModel
    from .modeling_merit_generation import MeritForConditionalGeneration
    from .processing.feature_extraction_merit import MeritFeatureExtractor
    from .processing.processing_merit import MeritProcessor
    from .tasks_merit import TASKS

    AutoConfig.register("merit", MeritConfig)
    AutoConfig.register("merit_ecg_encoder", MeritEcgConfig)
    AutoConfig.register("merit_generation", MeritGenerationConfig)
    AutoModel.register(MeritConfig, MeritModel)
    AutoModel.register(MeritEcgConfig, MeritEcgModel)
    AutoModel.register(MeritGenerationConfig, MeritForConditionalGeneration)
    AutoModelForPreTraining.register(MeritConfig, MeritForPreTraining)
    AutoModelForAudioClassification.register(MeritEcgConfig, MeritForEcgClassification)
    AutoModelForSequenceClassification.register(MeritEcgConfig, MeritForEcgClassification)
    AutoModelForMultimodalLM.register(MeritGenerationConfig, MeritForConditionalGeneration)
    AutoFeatureExtractor.register(MeritConfig, MeritFeatureExtractor)
    AutoFeatureExtractor.register(MeritEcgConfig, MeritFeatureExtractor)
    AutoFeatureExtractor.register(MeritGenerationConfig, MeritFeatureExtractor)
    AutoProcessor.register(MeritConfig, MeritProcessor)
    AutoProcessor.register(MeritEcgConfig, MeritFeatureExtractor)
    AutoProcessor.register(MeritGenerationConfig, MeritProcessor)

    # Makes `save_pretrained` and `push_to_hub` copy the code beside the weights, for loading without this package.
    MeritConfig.register_for_auto_class()
    MeritEcgConfig.register_for_auto_class()
    MeritGenerationConfig.register_for_auto_class()
    MeritModel.register_for_auto_class("AutoModel")
    MeritEcgModel.register_for_auto_class("AutoModel")
    MeritForPreTraining.register_for_auto_class("AutoModelForPreTraining")
    MeritForEcgClassification.register_for_auto_class("AutoModelForSequenceClassification")
    MeritForConditionalGeneration.register_for_auto_class("AutoModelForMultimodalLM")
    MeritFeatureExtractor.register_for_auto_class()
    MeritProcessor.register_for_auto_class()

    for task, (name, auto_class) in TASKS.items():
        if task not in PIPELINE_REGISTRY.supported_tasks:  # a second time when the package is reloaded
            PIPELINE_REGISTRY.register_pipeline(
                task,
                getattr(pipelines_merit, name),
                pt_model=getattr(transformers, auto_class),
                type="multimodal",
            )


def register_when_transformers_is_imported() -> None:
    """Register now if transformers is imported, else as soon as it is."""
    if "transformers" in sys.modules:
        register()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the watched modules like the other finders do, and counts those that are being executed."""

    def __init__(self):
        self.executing, self.lock = 0, threading.Lock()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in WATCHED:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader, self)
                return spec
        return None


class _Loader(Loader):
    """Executes a module by its own loader, then registers unless another watched module is still being executed."""

    def __init__(self, loader: Loader, finder: _Finder):
        self.loader, self.finder = loader, finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)  # for those who only look at the spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = module.__spec__.loader = self.loader  # as if it had been found without us
        with self.finder.lock:
            self.finder.executing += 1
        try:
            self.loader.exec_module(module)
        finally:
            with self.finder.lock:
                self.finder.executing -= 1
                last = self.finder.executing == 0 and self.finder in sys.meta_path
        if last:
            sys.meta_path.remove(self.finder)
            try:
                register()
            except BaseException:  # raised again when the import is tried again
                sys.meta_path.insert(0, self.finder)
                raise


__all__ = ["register", "register_when_transformers_is_imported"]
