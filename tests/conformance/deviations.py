"""Tests of transformers' common suites that our classes do not pass, and why."""

MISSING = {
    "test_model_weights_reload_no_missing_tied_weights": (
        "It loads a file without weights. `from_pretrained` raises an OSError instead of leaving parts random."
    ),
}
CONVOLUTIONS = {"test_model_get_set_embeddings": "Expects an `nn.Embedding`; an ECG is embedded by a convolution."}
NESTED = dict.fromkeys(
    ("test_hidden_states_output", "test_retain_grad_hidden_states_attentions"),
    "As in CLIP, hidden states are in `ecg_model_output` and `text_model_output`; those classes are tested.",
)
BOOLEANS = {"test_model_outputs_equivalence": "It subtracts outputs; `masked_patches` is a boolean mask."}
NO_BASE_MODEL = {
    "test_model_base_model_prefix": (
        "There is no base model without a head: encoder, projector and language model with its head are one class, so "
        "that any `AutoModelForCausalLM` fits."
    ),
}
SOUND = dict.fromkeys(
    (f"test_apply_chat_template_audio_{index}" for index in range(4)),
    "It passes `num_frames` for videos, which is refused as an unknown argument, and files of sound.",
)
REMOTE_CODE = dict.fromkeys(
    ("test_processor_from_and_save_pretrained", "test_processor_from_and_save_pretrained_as_nested_dict"),
    "Saving a class registered for the Hub's remote code sets `auto_map` on it, loading drops it; they are compared.",
)
OF_A_CHECKPOINT = {
    "test_config_from_and_save_pretrained_composite": (
        "A part of a configuration leaves out `auto_map` and `custom_pipelines`, which are those of a checkpoint; "
        "loaded by itself it has its own."
    ),
}

DEVIATIONS: dict[str, list[dict[str, str]]] = {
    "MeritEcgModelTest": [MISSING, CONVOLUTIONS],
    "MeritForEcgClassificationTest": [MISSING, CONVOLUTIONS],
    "MeritModelTest": [MISSING, NESTED],
    "MeritForPreTrainingTest": [MISSING, BOOLEANS],
    "MeritForConditionalGenerationTest": [MISSING, NO_BASE_MODEL],
    "MeritProcessorTest": [SOUND, REMOTE_CODE],
    "MeritConfigTest": [OF_A_CHECKPOINT],
    "MeritGenerationConfigTest": [OF_A_CHECKPOINT],
}
"""By test class. A test that passes although it is named here fails, so that the list stays true."""
