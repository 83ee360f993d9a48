"""MERIT for the Hugging Face Hub. Importing this package registers the MERIT classes with the `Auto*` factories."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForPreTraining, AutoProcessor

from .configuration_merit import MeritConfig, MeritEcgConfig
from .modeling_merit import MeritEcgModel, MeritForEcgClassification, MeritForPreTraining, MeritModel
from .processing import MeritFeatureExtractor, MeritProcessor

AutoConfig.register("merit", MeritConfig)
AutoConfig.register("merit_ecg_encoder", MeritEcgConfig)
AutoModel.register(MeritConfig, MeritModel)
AutoModel.register(MeritEcgConfig, MeritEcgModel)
AutoModelForPreTraining.register(MeritConfig, MeritForPreTraining)
AutoFeatureExtractor.register(MeritConfig, MeritFeatureExtractor)
AutoFeatureExtractor.register(MeritEcgConfig, MeritFeatureExtractor)
AutoProcessor.register(MeritConfig, MeritProcessor)

# Makes `save_pretrained` and `push_to_hub` copy the code beside the weights, for loading without this package.
MeritConfig.register_for_auto_class()
MeritEcgConfig.register_for_auto_class()
MeritModel.register_for_auto_class("AutoModel")
MeritEcgModel.register_for_auto_class("AutoModel")
MeritForPreTraining.register_for_auto_class("AutoModelForPreTraining")
MeritForEcgClassification.register_for_auto_class("AutoModel")
MeritFeatureExtractor.register_for_auto_class()
MeritProcessor.register_for_auto_class()

__version__ = "0.1.0"

__all__ = [
    "MeritConfig",
    "MeritEcgConfig",
    "MeritEcgModel",
    "MeritFeatureExtractor",
    "MeritForEcgClassification",
    "MeritForPreTraining",
    "MeritModel",
    "MeritProcessor",
]
