"""The pipelines of a checkpoint: which tasks it can do, as `transformers.pipeline` reads them from `config.json`.

This file travels to the Hub beside the weights, so it imports only siblings.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `save_pretrained` copies what a configuration imports, and with this line the pipelines too
    from .pipelines_merit import MeritPipeline  # noqa: F401

TASKS = {
    "zero-shot-ecg-classification": ("MeritZeroShotEcgClassificationPipeline", "AutoModel"),
    "ecg-classification": ("MeritEcgClassificationPipeline", "AutoModelForSequenceClassification"),
    "ecg-feature-extraction": ("MeritEcgFeatureExtractionPipeline", "AutoModel"),
    "ecg-to-text": ("MeritEcgToTextPipeline", "AutoModelForMultimodalLM"),
}
"""Class of `pipelines_merit.py`, and Auto class of the model, by task."""

OF_TRANSFORMERS = {"feature-extraction": "ecg-feature-extraction", "any-to-any": "ecg-to-text"}
"""Tasks of `transformers` by name, and the task that stands in for them. `transformers` itself would take the name of
an ECG file for a text, and give the embedding of that text or go on from it."""

OF_A_CHECKPOINT = ("custom_pipelines", "auto_map")
"""Fields of a configuration that mean nothing in the part of another one."""


def tasks_of(model_type: str, architectures: list[str] | None = None) -> list[str]:
    """Return the tasks of a checkpoint, the one it is made for first.

    Args:
        model_type (`str`): Of its configuration.
        architectures (`list[str]`, *optional*): Of its configuration: the class it was saved from.

    Example:

    >>> tasks_of("merit")
    ['zero-shot-ecg-classification', 'ecg-feature-extraction', 'feature-extraction']
    >>> tasks_of("merit_ecg_encoder", ["MeritForEcgClassification"])[0], tasks_of("merit_generation")[0]
    ('ecg-classification', 'ecg-to-text')
    """
    if model_type == "merit_generation":
        tasks = ["ecg-to-text"]
    elif "MeritForEcgClassification" in (architectures or ()):
        tasks = ["ecg-classification", "ecg-feature-extraction"]
    else:
        tasks = ["zero-shot-ecg-classification"] * (model_type == "merit") + ["ecg-feature-extraction"]
    return tasks + [name for name, task in OF_TRANSFORMERS.items() if task in tasks]


def pipeline_entry(task: str) -> dict[str, Any]:
    """Return the entry of a task in `custom_pipelines` of `config.json`.

    Example:

    >>> pipeline_entry("feature-extraction")["impl"]
    'pipelines_merit.MeritEcgFeatureExtractionPipeline'
    """
    name, auto_class = TASKS[OF_TRANSFORMERS.get(task, task)]
    return {"impl": f"pipelines_merit.{name}", "pt": [auto_class], "type": "multimodal"}


class CheckpointPipelines(dict):
    """`custom_pipelines` of a loaded configuration: holds the first task of the checkpoint, and knows the others.

    `transformers.pipeline` takes the task that is not stated from here if there is one alone. It asks for
    `trust_remote_code` if it finds a stated task `in` here before it looks into its own registry; so a task that the
    package has registered is not in here.
    """

    def __init__(self, entries: dict[str, dict[str, Any]]):
        first = next(iter(entries))
        super().__init__({first: entries[first]})
        self.entries = entries

    def __contains__(self, task: object) -> bool:
        from transformers.pipelines import PIPELINE_REGISTRY

        return task in self.entries and not (task in TASKS and task in PIPELINE_REGISTRY.supported_tasks)

    def __missing__(self, task: str) -> dict[str, Any]:
        return self.entries[task]


class MeritTasks:
    """Gives a configuration `custom_pipelines`, which follow from its class and `architectures`."""

    @property
    def custom_pipelines(self) -> CheckpointPipelines:
        return CheckpointPipelines(self._pipeline_entries())

    @custom_pipelines.setter
    def custom_pipelines(self, entries: dict[str, dict[str, Any]]) -> None:
        # From `config.json` or `Pipeline.save_pretrained`. Only other authors' tasks: ours follow from the class.
        own = {*TASKS, *OF_TRANSFORMERS}
        self.__dict__["custom_pipelines"] = {task: entry for task, entry in entries.items() if task not in own}

    def _pipeline_entries(self) -> dict[str, dict[str, Any]]:
        tasks = tasks_of(self.model_type, self.architectures)  # type: ignore[attr-defined]
        return {task: pipeline_entry(task) for task in tasks} | self.__dict__.get("custom_pipelines", {})

    def to_dict(self) -> dict[str, Any]:
        """As `PreTrainedConfig.to_dict`; only the configuration of a whole checkpoint names pipelines and classes."""
        content = super().to_dict()  # type: ignore[misc]
        if isinstance(content.get("ecg_config"), dict):
            content["ecg_config"] = {
                name: value for name, value in content["ecg_config"].items() if name not in OF_A_CHECKPOINT
            }
        return content | {"custom_pipelines": self._pipeline_entries()}


__all__ = ["OF_TRANSFORMERS", "TASKS", "CheckpointPipelines", "MeritTasks", "pipeline_entry", "tasks_of"]
