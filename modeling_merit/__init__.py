"""MERIT for the Hugging Face Hub. Importing this package registers the MERIT classes with the `Auto*` factories."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForMultimodalLM,
    AutoModelForPreTraining,
    AutoProcessor,
)

from .configuration_merit import MeritConfig, MeritEcgConfig, MeritGenerationConfig
from .modeling_merit import MeritEcgModel, MeritForEcgClassification, MeritForPreTraining, MeritModel
from .modeling_merit_generation import MeritForConditionalGeneration
from .processing import MeritFeatureExtractor, MeritProcessor

AutoConfig.register("merit", MeritConfig)
AutoConfig.register("merit_ecg_encoder", MeritEcgConfig)
AutoConfig.register("merit_generation", MeritGenerationConfig)
AutoModel.register(MeritConfig, MeritModel)
AutoModel.register(MeritEcgConfig, MeritEcgModel)
AutoModelForPreTraining.register(MeritConfig, MeritForPreTraining)
AutoModelForMultimodalLM.register(MeritGenerationConfig, MeritForConditionalGeneration)
AutoFeatureExtractor.register(MeritConfig, MeritFeatureExtractor)
AutoFeatureExtractor.register(MeritEcgConfig, MeritFeatureExtractor)
AutoFeatureExtractor.register(MeritGenerationConfig, MeritFeatureExtractor)
AutoProcessor.register(MeritConfig, MeritProcessor)
AutoProcessor.register(MeritGenerationConfig, MeritProcessor)

# Makes `save_pretrained` and `push_to_hub` copy the code beside the weights, for loading without this package.
MeritConfig.register_for_auto_class()
MeritEcgConfig.register_for_auto_class()
MeritGenerationConfig.register_for_auto_class()
MeritModel.register_for_auto_class("AutoModel")
MeritEcgModel.register_for_auto_class("AutoModel")
MeritForPreTraining.register_for_auto_class("AutoModelForPreTraining")
MeritForEcgClassification.register_for_auto_class("AutoModel")
MeritForConditionalGeneration.register_for_auto_class("AutoModelForMultimodalLM")
MeritFeatureExtractor.register_for_auto_class()
MeritProcessor.register_for_auto_class()

__version__ = "0.1.0"

__all__ = [
    "MeritConfig",
    "MeritEcgConfig",
    "MeritEcgModel",
    "MeritFeatureExtractor",
    "MeritForConditionalGeneration",
    "MeritForEcgClassification",
    "MeritForPreTraining",
    "MeritGenerationConfig",
    "MeritModel",
    "MeritProcessor",
]
