"""Saving and loading: what is loaded is what was saved, and nothing is left at random values."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TRANSFORMER, build, ecg_config, ecgs, merit_config, reports
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from modeling_merit import MeritEcgModel, MeritForEcgClassification, MeritForPreTraining, MeritModel

TEXT = reports([2, 5, 6, 3], [2, 7, 3])
MODELS = {
    MeritEcgModel: ecg_config,
    MeritModel: lambda: merit_config(num_words=6),
    MeritForPreTraining: lambda: merit_config(num_words=6),
    MeritForEcgClassification: lambda: ecg_config(num_labels=4, problem_type="single_label_classification"),
}
TEXT_MODELS = {
    "bert": TRANSFORMER | {"vocab_size": 104},
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "vocab_size": 104},
    "roberta": TRANSFORMER | {"vocab_size": 104, "pad_token_id": 0},
}


@pytest.fixture(scope="module")
def pre_training(tmp_path_factory):
    """A pre-training model and the folder it was saved in."""
    folder = tmp_path_factory.mktemp("pre-training")
    model = build(MeritForPreTraining, merit_config(num_words=6))
    model.merit.set_words(torch.arange(6, 12), torch.linspace(0.1, 0.9, 6))
    model.save_pretrained(folder)
    return model, folder


def tensors_of(output: tuple) -> list[torch.Tensor]:
    """The tensors of an output and of the outputs inside it."""
    parts = (tensors_of(part) if isinstance(part, tuple) else [part] for part in output)
    return [tensor for part in parts for tensor in part if tensor is not None]


def assert_same_weights(loaded: torch.nn.Module, expected: torch.nn.Module) -> None:
    found, wanted = loaded.state_dict(), expected.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def remove_weights(source, target, pattern: str) -> None:
    """Copy a checkpoint without the weights whose name matches."""
    weights = load_file(source / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not re.match(pattern, name)}
    assert 0 < len(kept) < len(weights)
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text((source / "config.json").read_text())


@pytest.mark.parametrize("model_class", MODELS)
def test_loaded_equals_saved(model_class, tmp_path):
    model = build(model_class, MODELS[model_class]())
    model.save_pretrained(tmp_path)
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert_same_weights(loaded, model)
    # Nothing is left on the meta device or at what the memory held (buffers are not in the state).
    tensors = [*loaded.parameters(), *loaded.buffers()]
    assert all(not tensor.is_meta and tensor.isfinite().all() for tensor in tensors)
    inputs = {"input_values": ecgs()}
    if isinstance(model, (MeritModel, MeritForPreTraining)):
        inputs |= TEXT
    outputs = []
    for each in (model, loaded):
        torch.manual_seed(0)
        outputs.append(tensors_of(each(**inputs).to_tuple()))
    assert len(outputs[0]) == len(outputs[1]) > 0 and all(torch.equal(a, b) for a, b in zip(*outputs))
    assert not loaded.training


def test_auto_classes_find_the_models(pre_training, tmp_path):
    model, folder = pre_training
    assert type(AutoModel.from_pretrained(folder)) is MeritModel
    assert type(AutoModelForPreTraining.from_pretrained(folder)) is MeritForPreTraining
    build(MeritEcgModel, ecg_config()).save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is MeritEcgModel


def test_parts_load_from_a_pre_training_checkpoint(pre_training):
    model, folder = pre_training
    assert_same_weights(MeritModel.from_pretrained(folder), model.merit)
    assert_same_weights(MeritEcgModel.from_pretrained(folder), model.merit.ecg_model)
    classifier = MeritForEcgClassification.from_pretrained(folder, num_labels=5)
    assert_same_weights(classifier.ecg_model, model.merit.ecg_model)
    assert classifier.classifier.weight.shape == (5, 32) and classifier.classifier.weight.isfinite().all()


@pytest.mark.parametrize("model_class", MODELS)
def test_what_was_loaded_from_a_larger_checkpoint_can_be_saved(pre_training, tmp_path, model_class):
    """Under the names of its own class, as if it had been made by hand."""
    loaded = model_class.from_pretrained(pre_training[1])
    loaded.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == loaded.state_dict().keys()
    assert_same_weights(model_class.from_pretrained(tmp_path), loaded)


def test_parts_load_from_other_checkpoints(pre_training, tmp_path):
    model, _ = pre_training
    model.merit.save_pretrained(tmp_path / "dual")
    assert_same_weights(MeritEcgModel.from_pretrained(tmp_path / "dual"), model.merit.ecg_model)
    assert_same_weights(MeritForEcgClassification.from_pretrained(tmp_path / "dual").ecg_model, model.merit.ecg_model)
    assert_same_weights(MeritForPreTraining.from_pretrained(tmp_path / "dual").merit, model.merit)
    classifier = build(MeritForEcgClassification, ecg_config(), seed=3)
    classifier.save_pretrained(tmp_path / "classifier")
    assert_same_weights(MeritEcgModel.from_pretrained(tmp_path / "classifier"), classifier.ecg_model)
    classifier.ecg_model.save_pretrained(tmp_path / "alone")
    assert_same_weights(MeritForEcgClassification.from_pretrained(tmp_path / "alone").ecg_model, classifier.ecg_model)


@pytest.mark.parametrize(
    "model_class, pattern",
    [
        (MeritEcgModel, r"merit\.ecg_model\.stages\.1\."),
        (MeritForEcgClassification, r"merit\.ecg_model\.stem\.convolutions\.0\.normalization\.running_var"),
        (MeritModel, r"merit\.text_projection"),
        (MeritModel, r"merit\.word_head"),
        (MeritForPreTraining, r"merit\.word_keys"),
        (MeritForPreTraining, r"merit\.text_model\.embeddings"),
    ],
)
def test_incomplete_checkpoints_are_refused(pre_training, tmp_path, model_class, pattern):
    remove_weights(pre_training[1], tmp_path, pattern)
    missing = re.sub(r"^merit\\\.(ecg_model\\\.)?", "", pattern) if model_class is MeritEcgModel else ""
    with pytest.raises(OSError, match=rf"hold all weights of {model_class.__name__}, but \d+ are missing.*{missing}"):
        model_class.from_pretrained(tmp_path)


def test_an_ecg_encoder_alone_is_not_a_dual_encoder(tmp_path):
    build(MeritEcgModel, ecg_config()).save_pretrained(tmp_path)
    with pytest.raises(OSError, match="hold all weights of MeritModel"):
        MeritModel.from_pretrained(tmp_path, config=merit_config())


def test_a_new_decoder_may_be_trained(pre_training, tmp_path):
    remove_weights(pre_training[1], tmp_path, r"decoder\.")
    loaded = MeritForPreTraining.from_pretrained(tmp_path)
    assert_same_weights(loaded.merit, pre_training[0].merit)
    assert all(p.isfinite().all() for p in loaded.decoder.parameters())
    assert loaded.decoder.embedding.weight.std() > 0.01 and loaded.decoder.prediction.weight.std() > 0.01


@pytest.mark.parametrize("how", [lambda model, folder: model, lambda model, folder: str(folder)])
@pytest.mark.parametrize("model_type", TEXT_MODELS)
def test_encoders_are_joined(model_type, how, tmp_path):
    ecg = build(MeritEcgModel, ecg_config())
    text = build(AutoModel.from_config, AutoConfig.for_model(model_type, **TEXT_MODELS[model_type]))
    ecg.save_pretrained(tmp_path / "ecg")
    text.save_pretrained(tmp_path / "text")
    encoders = how(ecg, tmp_path / "ecg"), how(text, tmp_path / "text")
    model = MeritModel.from_ecg_text_pretrained(*encoders, projection_dim=8).eval()
    assert (model.config.projection_dim, model.config.text_config.model_type) == (8, model_type)
    assert_same_weights(model.ecg_model, ecg)
    output = model(ecgs(), **TEXT)
    assert output.logits_per_ecg.shape == (2, 2) and output.logits_per_ecg.isfinite().all()
    expected = text(**TEXT).last_hidden_state
    assert torch.allclose(model.text_model(**TEXT).last_hidden_state, expected, atol=1e-6)
    model.save_pretrained(tmp_path / "joined")
    assert_same_weights(MeritModel.from_pretrained(tmp_path / "joined"), model)


@pytest.mark.parametrize("model_class", [MeritModel, MeritForPreTraining])
def test_encoders_stored_in_bfloat16_are_joined_in_float32(model_class, tmp_path):
    """And from paths, in evaluation mode, as `from_pretrained` returns a model."""
    build(MeritEcgModel, ecg_config()).bfloat16().save_pretrained(tmp_path / "ecg")
    text = build(AutoModel.from_config, AutoConfig.for_model("bert", **TEXT_MODELS["bert"])).bfloat16()
    text.save_pretrained(tmp_path / "text")
    model = model_class.from_ecg_text_pretrained(tmp_path / "ecg", tmp_path / "text", projection_dim=8)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(module.training for module in model.modules())
    assert model(ecgs(), **TEXT).ecg_embeds.dtype == torch.float32
    model.save_pretrained(tmp_path / "joined")
    loaded = model_class.from_pretrained(tmp_path / "joined")
    assert_same_weights(loaded, model)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    half = model_class.from_pretrained(tmp_path / "joined", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_encoders_are_joined_for_pre_training():
    ecg = build(MeritEcgModel, ecg_config())
    text = build(AutoModel.from_config, AutoConfig.for_model("bert", **TEXT_MODELS["bert"]))
    model = MeritForPreTraining.from_ecg_text_pretrained(ecg, text, mask_ratio=0.5)
    assert_same_weights(model.merit.ecg_model, ecg)
    model(ecgs(), **TEXT).loss.backward()
    # DistributedDataParallel waits for every gradient.
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_saved_folder_holds_the_code_and_names_all_classes(pre_training):
    _, folder = pre_training
    code = {"configuration_merit.py", "modeling_merit.py", "objective_merit.py", "inference_merit.py"}
    code |= {"pipelines_merit.py", "reading_merit.py", "tasks_merit.py"}
    assert {path.name for path in folder.iterdir()} == code | {"config.json", "model.safetensors"}
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert auto_map == {
        "AutoConfig": "configuration_merit.MeritConfig",
        "AutoModel": "modeling_merit.MeritModel",
        "AutoModelForPreTraining": "modeling_merit.MeritForPreTraining",
    }


def test_dtype_of_the_checkpoint_is_kept(tmp_path):
    build(MeritEcgModel, ecg_config()).to(torch.bfloat16).save_pretrained(tmp_path)
    assert MeritEcgModel.from_pretrained(tmp_path).dtype == torch.bfloat16
    assert MeritEcgModel.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_words_survive_saving(pre_training):
    model, folder = pre_training
    loaded = MeritModel.from_pretrained(folder)
    assert loaded.word_keys.tolist() == list(range(6, 12))
    assert torch.allclose(loaded.word_log_odds.sigmoid(), torch.linspace(0.1, 0.9, 6))
    assert torch.equal(loaded.get_word_evidence(ecgs()), model.merit.get_word_evidence(ecgs()))
    half = MeritModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert (
        half.word_keys.dtype == torch.int64
        and half.get_words(**TEXT).tolist() == model.merit.get_words(**TEXT).tolist()
    )


def test_words_are_new_where_the_checkpoint_predicts_none(tmp_path):
    """Buffers that are on no disk are set by the initialisation: no garbage, and the evidence is zero."""
    build(MeritModel, merit_config()).save_pretrained(tmp_path)
    with pytest.raises(OSError, match="are missing, such as word_"):
        MeritModel.from_pretrained(tmp_path, config=merit_config(num_words=6))
    torch.manual_seed(0)
    model = MeritModel(merit_config(num_words=6)).eval()
    assert model.word_keys.tolist() == list(range(6)) and model.word_log_odds.abs().max() == 0
