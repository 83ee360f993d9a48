"""MeritForConditionalGeneration: projectors, prompts, decoding, saving; three families of language models."""

import copy
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from tiny_models import ENCODER, TRANSFORMER, wake
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, TextStreamer

from modeling_merit import (
    MeritConfig,
    MeritEcgConfig,
    MeritEcgModel,
    MeritFeatureExtractor,
    MeritForConditionalGeneration,
    MeritForPreTraining,
    MeritGenerationConfig,
    MeritProcessor,
)

VOCABULARY, ECG, PLACEHOLDERS = 60, 60, 12
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128}
FAMILIES = {
    "llama": {"intermediate_size": 32, "tie_word_embeddings": True},
    "qwen2": {"intermediate_size": 32, "num_key_value_heads": 1, "tie_word_embeddings": False},
    "gpt2": {},
}
GREEDY = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}


def language_model(family: str):
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(
        family, vocab_size=VOCABULARY, initializer_range=0.5, **ids, **SIZES, **FAMILIES[family]
    )
    return AutoModelForCausalLM.from_config(config)


def build(family: str = "llama", **fields) -> MeritForConditionalGeneration:
    torch.manual_seed(0)
    encoder = MeritEcgModel(MeritEcgConfig(**ENCODER)).eval()
    wake(encoder)
    fields = {"num_ecg_tokens": PLACEHOLDERS, "ecg_token_id": ECG, "initializer_range": 0.3, **fields}
    return MeritForConditionalGeneration.from_ecg_text_pretrained(encoder, language_model(family), **fields)


def prompt(*parts) -> list[int]:
    """Numbers are tokens, "ecg" is the placeholders of one ECG."""
    return [token for part in parts for token in ([ECG] * PLACEHOLDERS if part == "ecg" else [part])]


def left_pad(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(one)) + one for one in prompts])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(scope="module")
def ecgs() -> torch.Tensor:
    return torch.randn(4, 12, 500, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("projector", ["mlp", "perceiver"])
@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_with_a_cache_equals_decoding_without(family, projector, ecgs):
    model, inputs = build(family, projector_type=projector), left_pad([prompt(5, "ecg", 6), prompt("ecg", 7, 8, 9)])
    cached = model.generate(**inputs, input_values=ecgs[:2], **GREEDY)
    uncached = model.generate(**inputs, input_values=ecgs[:2], use_cache=False, **GREEDY)
    assert cached.tolist() == uncached.tolist()
    logits, others = (model(**inputs, input_values=values).logits for values in (ecgs[:2], ecgs[2:]))
    assert (logits - others)[:, -1].abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_left_padding_changes_nothing(family, ecgs):
    model, prompts = build(family), [prompt(5, "ecg", 6), prompt(8, 9, 10, 11, "ecg", "ecg", 7), prompt(3, 4)]
    together = model.generate(**left_pad(prompts), input_values=ecgs[:3], **GREEDY)[:, -6:]
    for row, one, own in zip(together, prompts, (ecgs[:1], ecgs[1:3], None)):
        alone = model.generate(torch.tensor([one]), input_values=own, **GREEDY)[0, -6:]
        assert row.tolist() == alone.tolist()


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beam_search_keeps_the_ecgs_of_each_prompt_together(options, ecgs):
    model, prompts = build("gpt2"), [prompt("ecg", 5, "ecg", 6), prompt(7, 8, "ecg")]
    mask = torch.ones(ecgs[:3].shape, dtype=torch.bool)
    mask[0, 3:] = False
    together = model.generate(**left_pad(prompts), input_values=ecgs[:3], ecg_mask=mask, **GREEDY, **options)[:, -6:]
    by_hand = []  # the language model alone, given the vectors of one prompt
    for one, own in zip(prompts, (slice(0, 2), slice(2, 3))):
        ids = torch.tensor([one])
        embeds = model.get_input_embeddings()(ids.masked_fill(ids == ECG, 0)).detach()
        embeds[ids == ECG] = model.get_ecg_features(ecgs[own], mask[own]).pooler_output.flatten(0, 1).detach()
        by_hand.append(model.language_model.generate(inputs_embeds=embeds, **GREEDY, **options))
    assert together.tolist() == torch.cat(by_hand).tolist()


def test_sampling_is_repeatable_and_varies(ecgs):
    model, inputs = build(), left_pad([prompt("ecg", 5)])
    options = {"do_sample": True, "temperature": 3.0, "num_return_sequences": 8, "max_new_tokens": 6}
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(model.generate(**inputs, input_values=ecgs[:1], **options)[:, PLACEHOLDERS + 1 :].tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(map(tuple, drawn[0]))) > 4


def test_text_alone_is_what_the_language_model_says(ecgs):
    model, ids = build("qwen2"), torch.tensor([[5, 6, 7]])
    assert model.generate(ids, **GREEDY).tolist() == model.language_model.generate(ids, **GREEDY).tolist()


def test_the_order_of_ecgs_matters(ecgs):
    model, ids = build("gpt2"), torch.tensor([prompt("ecg", 5, "ecg", 6)])
    first, second = (model(ids, input_values=values).logits for values in (ecgs[:2], ecgs[:2].flip(0)))
    assert (first - second).abs().max() > 1e-3


def test_the_placeholder_is_never_written(ecgs):
    model = build("llama", ecg_token_id=7)
    model.language_model.lm_head.weight = torch.nn.Parameter(torch.zeros(VOCABULARY, 16))
    model.language_model.lm_head.bias = torch.nn.Parameter(torch.eye(VOCABULARY)[7] * 9)  # prefers the placeholder
    ids = torch.tensor([[7] * PLACEHOLDERS + [5]])
    assert model(ids, input_values=ecgs[:1]).logits[0, -1].argmax() == 7
    assert 7 not in model.generate(ids, input_values=ecgs[:1], **GREEDY)[0, -6:].tolist()


@pytest.mark.parametrize("projector", ["mlp", "perceiver"])
def test_masked_patches_never_reach_the_language_model(projector, ecgs):
    model, ids = build(projector_type=projector), torch.tensor([prompt("ecg", 5)])
    mask = torch.ones(1, 12, 500, dtype=torch.bool)
    mask[:, 6:] = False
    mask[:, 0, 250:] = False
    mask[:, :, 400:] = False
    noise = torch.where(mask, ecgs[:1], 50.0)
    logits = [model(ids, input_values=values, ecg_mask=mask).logits for values in (ecgs[:1], noise)]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)
    encoded = model.ecg_model(ecgs[:1], mask)
    shouting = torch.where(encoded.token_mask[..., None], encoded.last_hidden_state, 1e4)
    shouted = model(ids, ecg_hidden_states=shouting, ecg_token_mask=encoded.token_mask).logits
    torch.testing.assert_close(shouted, logits[0], rtol=0, atol=1e-5)
    nothing = model.get_ecg_features(
        ecg_hidden_states=shouting, ecg_token_mask=torch.zeros(1, 63, dtype=torch.bool)
    ).pooler_output
    assert nothing.isfinite().all() and nothing.abs().max() < 100


def bare_projector(spans: int):
    projector = build(num_ecg_tokens=spans).projector
    projector.fc1, projector.act, projector.fc2 = torch.nn.Identity(), torch.nn.Identity(), torch.nn.Identity()
    return projector


def test_mlp_projector_sees_means_over_spans_of_the_recorded_time():
    """By hand, with positions numbered in time: whole positions, halves at the borders, and gaps left out."""
    numbers = torch.arange(10.0).reshape(1, 10, 1).expand(-1, -1, 16)
    assert bare_projector(2)(numbers)[0, :, 0].tolist() == [2.0, 7.0]
    halves = bare_projector(4)(numbers)[0, :, 0].tolist()  # 2.5 positions each: (0 + 1 + 2 / 2) / 2.5 in the first
    assert halves == pytest.approx([0.8, 3.2, 5.8, 8.2], abs=1e-5)
    mask = torch.ones(1, 10, dtype=torch.bool)
    mask[0, 1:5], mask[0, 9] = False, False
    assert bare_projector(5)(numbers, mask)[0, :, 0].tolist() == pytest.approx([0.0, 5.0, 6.0, 7.0, 8.0])
    # More spans than positions repeat them.
    few = bare_projector(20)(numbers)[0, :, 0]
    assert few.tolist() == pytest.approx([float(position) for position in range(10) for _ in range(2)], abs=1e-5)
    projector = bare_projector(3)
    nothing = projector(numbers, torch.zeros(1, 10, dtype=torch.bool))
    assert torch.equal(nothing, projector.absent.expand(1, 3, -1))


@settings(max_examples=50)
@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 5), st.integers(0, 5))
def test_padding_changes_no_span(positions, spans, left, right):
    """The mean over all spans is the mean over what was recorded, and padding on either side changes nothing."""
    projector = bare_projector(spans)
    tokens = torch.randn(1, positions, 16, generator=torch.Generator().manual_seed(positions))
    padded = torch.full((1, left + positions + right, 16), 1e3)
    mask = torch.zeros(1, left + positions + right, dtype=torch.bool)
    padded[:, left : left + positions], mask[:, left : left + positions] = tokens, True
    with torch.no_grad():
        alone, together = projector(tokens), projector(padded, mask)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone.mean(dim=1), tokens.mean(dim=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seconds", [2.5, 10.0, 30.0])
@pytest.mark.parametrize("projector", ["mlp", "perceiver"])
def test_any_duration_gives_the_same_number_of_vectors(projector, seconds):
    features = build(projector_type=projector).get_ecg_features(torch.randn(2, 12, round(seconds * 100))).pooler_output
    assert features.shape == (2, PLACEHOLDERS, 16)
    assert features.std() > 0.05


def test_hidden_states_of_a_frozen_encoder_replace_the_signal(ecgs):
    model, ids = build("gpt2", projector_type="perceiver"), torch.tensor([prompt("ecg", 5)])
    hidden = model.ecg_model(ecgs[:1]).last_hidden_state.half()
    logits = model(ids, ecg_hidden_states=hidden).logits
    torch.testing.assert_close(logits, model(ids, input_values=ecgs[:1]).logits, rtol=0, atol=2e-2)


def test_loss_is_that_of_the_answer(ecgs):
    model, ids = build("gpt2"), torch.tensor([prompt("ecg", 5, 20, 21, 2)])
    labels = torch.where(torch.arange(ids.shape[1]) > PLACEHOLDERS, ids, -100)
    output = model(ids, input_values=ecgs[:1], labels=labels)
    by_hand = torch.nn.functional.cross_entropy(output.logits[0, PLACEHOLDERS:-1], ids[0, PLACEHOLDERS + 1 :])
    assert output.loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    output.loss.backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in (model.projector.fc1, model.projector.fc2))


def test_parts_keep_their_weights_and_the_encoder_comes_from_any_checkpoint(tmp_path):
    config = MeritConfig(ecg_config=ENCODER, text_config={**TRANSFORMER, "vocab_size": 50})
    whole, text = MeritForPreTraining(config), language_model("llama")
    whole.save_pretrained(tmp_path / "merit")
    text.save_pretrained(tmp_path / "text")
    model = MeritForConditionalGeneration.from_ecg_text_pretrained(
        str(tmp_path / "merit"), str(tmp_path / "text"), num_ecg_tokens=12
    )
    assert model.config.ecg_token_id == VOCABULARY
    assert model.generation_config.eos_token_id == 2 and model.generation_config.suppress_tokens == [VOCABULARY]
    for name, weights in whole.merit.ecg_model.state_dict().items():
        assert torch.equal(weights, model.ecg_model.state_dict()[name])
    for name, weights in text.state_dict().items():
        assert torch.equal(weights, model.language_model.state_dict()[name])
    model.save_pretrained(tmp_path / "generation")
    encoder = MeritEcgModel.from_pretrained(tmp_path / "generation")
    weights = encoder.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.ecg_model.state_dict().items())
    with pytest.raises(OSError, match="are missing"):
        MeritForConditionalGeneration.from_pretrained(tmp_path / "merit", config=model.config)


def test_all_parts_have_the_dtype_of_the_language_model(ecgs, tmp_path):
    """Else the saved model would have that of the ECG encoder, and the language model be loaded in it."""
    encoder, ids = MeritEcgModel(MeritEcgConfig(**ENCODER)).eval(), torch.tensor([prompt("ecg", 5)])
    encoder.save_pretrained(tmp_path / "ecg")
    language_model("llama").bfloat16().save_pretrained(tmp_path / "text")
    model = MeritForConditionalGeneration.from_ecg_text_pretrained(
        tmp_path / "ecg", tmp_path / "text", num_ecg_tokens=PLACEHOLDERS
    )
    model.save_pretrained(tmp_path / "model")
    loaded = MeritForConditionalGeneration.from_pretrained(tmp_path / "model")
    for each in (model, loaded):
        assert {parameter.dtype for parameter in each.parameters()} == {torch.bfloat16}
    assert torch.equal(*(each(ids, input_values=ecgs[:1]).logits for each in (model, loaded)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("projector", ["mlp", "perceiver"])
def test_save_and_reload(family, projector, ecgs, tmp_path):
    model, inputs = build(family, projector_type=projector), left_pad([prompt("ecg", 5), prompt(6, 7, "ecg", 8)])
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path)
    assert type(loaded) is type(AutoModel.from_pretrained(tmp_path)) is MeritForConditionalGeneration
    assert torch.equal(loaded(**inputs, input_values=ecgs[:2]).logits, model(**inputs, input_values=ecgs[:2]).logits)
    assert loaded.generation_config.suppress_tokens == [ECG] and loaded.config.prompts == model.config.prompts


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_saves_adapter_and_projector_alone(family, ecgs, tmp_path):
    build(family).save_pretrained(tmp_path / "base")
    model = MeritForConditionalGeneration.from_pretrained(tmp_path / "base")
    targets = r"language_model\..*\.(q_proj|v_proj|c_attn)"
    model.add_adapter(LoraConfig(r=2, target_modules=targets, modules_to_save=["projector"], init_lora_weights=False))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name or name.startswith("projector") for name in trained)
    for parameter in model.projector.parameters():
        parameter.data += 0.1
    model.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    loaded = AutoModelForMultimodalLM.from_pretrained(tmp_path / "adapter")
    ids = torch.tensor([prompt("ecg", 5)])
    expected = model.eval()(ids, input_values=ecgs[:1]).logits
    torch.testing.assert_close(loaded(ids, input_values=ecgs[:1]).logits, expected, rtol=0, atol=1e-6)
    base = MeritForConditionalGeneration.from_pretrained(tmp_path / "base")
    assert (base(ids, input_values=ecgs[:1]).logits - expected).abs().max() > 1e-2


def test_processor_to_streamed_text(tiny_tokenizer, capsys, ecgs):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|ecg|>"]})
    processor = MeritProcessor(MeritFeatureExtractor(), tokenizer, num_ecg_tokens=PLACEHOLDERS)
    encoder = MeritEcgModel(MeritEcgConfig(**ENCODER))
    text = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", vocab_size=104, bos_token_id=None, eos_token_id=None, **SIZES)
    )
    model = MeritForConditionalGeneration.from_ecg_text_pretrained(
        encoder, text, num_ecg_tokens=PLACEHOLDERS, ecg_token_id=processor.audio_token_id
    )
    names = {"sampling_rate": 100, "leads": model.config.ecg_config.leads, "units": "mV"}
    inputs = processor(ecgs[0].numpy(), "<|ecg|> sinus", **names, return_tensors="pt")
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True)
    ids = model.generate(**inputs, max_new_tokens=5, pad_token_id=0, do_sample=False, streamer=streamer)
    written = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :])
    assert ids.shape[1] - inputs["input_ids"].shape[1] == 5
    assert capsys.readouterr().out.split() == written.split()


@pytest.mark.parametrize(
    "ids, count, message",
    [
        (prompt("ecg", 5), 0, r"each of 0 ECGs, got \[12\]"),
        (prompt("ecg", 5), 2, r"each of 2 ECGs, got \[12\]"),
        (prompt("ecg", 5)[1:], 1, r"each of 1 ECGs, got \[11\]"),
        (prompt(5), 1, r"each of 1 ECGs, got \[0\]"),
    ],
)
def test_prompts_and_ecgs_must_fit(ids, count, message, ecgs):
    model = build()
    with pytest.raises(ValueError, match=message):
        model.generate(torch.tensor([ids]), input_values=ecgs[:count] if count else None, **GREEDY)


def test_placeholders_divided_wrongly_between_prompts_are_found(ecgs):
    ids = torch.tensor([[5] * 2 + [ECG] * 11, [ECG] * 13])
    with pytest.raises(ValueError, match=r"got \[11, 13\]"):
        build()(ids, input_values=ecgs[:2])


def test_limits_of_length(ecgs):
    model, ids = build(max_generated_tokens=8), torch.tensor([prompt("ecg", 5)])
    assert (
        model.generate(ids, input_values=ecgs[:1], max_new_tokens=8, min_new_tokens=8).shape[1] == PLACEHOLDERS + 1 + 8
    )
    for limit in ({"max_new_tokens": 9}, {"max_length": PLACEHOLDERS + 1 + 9}):
        with pytest.raises(ValueError, match="at most 8 new tokens"):
            model.generate(ids, input_values=ecgs[:1], **limit)
    model = build(max_generated_tokens=500)
    with pytest.raises(ValueError, match="128 in all, got a prompt of 13 tokens and 120 new ones"):
        model.generate(ids, input_values=ecgs[:1], max_new_tokens=120)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_cache_is_continued_with_the_ecg_of_a_second_question(family, ecgs):
    model, first, second = build(family), prompt("ecg", 5), prompt(6, "ecg", 7)
    written = model.generate(torch.tensor([first]), input_values=ecgs[:1], **GREEDY, return_dict_in_generate=True)
    ids = torch.cat([written.sequences, torch.tensor([second])], dim=1)
    expected = model.generate(ids, input_values=ecgs[:2], **GREEDY)
    encoded = []
    model.ecg_model.register_forward_hook(lambda module, inputs, output: encoded.append(len(inputs[0])))
    cache = written.past_key_values
    output = model.generate(ids, input_values=ecgs[:2], past_key_values=cache, **GREEDY)
    assert output.tolist() == expected.tolist() and encoded == [1]


def test_an_assistant_that_reads_ecgs_changes_nothing(ecgs):
    model, ids = build("qwen2"), torch.tensor([prompt("ecg", 5)])
    expected = model.generate(ids, input_values=ecgs[:1], **GREEDY)
    for assistant in (build("qwen2"), build("llama")):
        assert (
            model.generate(ids, input_values=ecgs[:1], assistant_model=assistant, **GREEDY).tolist()
            == expected.tolist()
        )
    with pytest.raises(ValueError, match=r"reads ECGs, with ecg_token_id and num_ecg_tokens \[60, 12\], got a Qwen2"):
        model.generate(ids, input_values=ecgs[:1], assistant_model=model.language_model, **GREEDY)


def test_embeddings_beside_ecgs(ecgs):
    model, ids = build(), torch.tensor([prompt("ecg", 5)])
    embeds = model.get_input_embeddings()(ids.masked_fill(ids == ECG, 0)).detach()
    expected = model.generate(ids, input_values=ecgs[:1], **GREEDY)
    assert model.generate(ids, inputs_embeds=embeds, input_values=ecgs[:1], **GREEDY).tolist() == expected.tolist()
    with pytest.raises(ValueError, match="the placeholder 60 has no embedding among the 60"):
        model(inputs_embeds=embeds, input_values=ecgs[:1])
    known = build(ecg_token_id=9)
    ids = torch.tensor([[9] * PLACEHOLDERS + [5]])
    embeds = known.get_input_embeddings()(ids)
    logits = known(inputs_embeds=embeds, input_values=ecgs[:1]).logits
    assert torch.equal(logits, known(ids, input_values=ecgs[:1]).logits)


def test_attention_is_set_in_all_parts_and_in_one():
    model = build()
    model.set_attn_implementation("eager")
    assert model.language_model.config._attn_implementation == "eager"
    model.set_attn_implementation({"text_config": "sdpa"})
    assert model.language_model.config._attn_implementation == "sdpa"
    assert (
        model.config.text_config is model.language_model.config and model.config.ecg_config is model.ecg_model.config
    )


def test_ecg_features_of_all_that_a_processor_gives(ecgs):
    model, inputs = build(), left_pad([prompt("ecg", 5)])
    features = model.get_ecg_features(input_values=ecgs[:1], ecg_mask=None, **inputs).pooler_output
    assert torch.equal(features, model.get_ecg_features(ecgs[:1]).pooler_output)
    assert torch.equal(features, model.get_ecg_features(ecgs[:1], input_ids=None, attention_mask=None).pooler_output)


@pytest.mark.parametrize("projector", ["mlp", "perceiver"])
def test_dynamic_int8_reaches_every_linear_layer(projector, ecgs):
    model, ids = build(projector_type=projector).eval(), torch.tensor([prompt("ecg", 5)])
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    with pytest.warns(
        DeprecationWarning, match="torch.ao.quantization"
    ):  # torchao, not a dependency, is to replace it
        quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    reached = [name for name, module in quantized.named_modules() if "quantized" in type(module).__module__]
    assert set(linear) <= set(reached)
    assert not any(isinstance(module, torch.nn.MultiheadAttention) for module in model.modules())
    exact, rounded = (each(ids, input_values=ecgs[:1]).logits for each in (model, quantized))
    assert 0 < (rounded - exact).abs().max() < 0.2 * exact.abs().max()


def test_either_ids_or_embeddings():
    with pytest.raises(ValueError, match="either `input_ids` or `inputs_embeds`"):
        build()(attention_mask=torch.ones(1, 2))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"projector_type": "q-former"}, "'mlp' or 'perceiver'"),
        ({"num_ecg_tokens": 0}, "`num_ecg_tokens` above 0, got 0"),
        ({"projector_type": "perceiver", "perceiver_num_attention_heads": 5}, "divide the width 256"),
    ],
)
def test_configuration_says_what_is_wrong(fields, message):
    with pytest.raises(Exception, match=message):
        MeritGenerationConfig(**fields)


@pytest.mark.slow
def test_loads_in_a_process_without_the_package(tmp_path, ecgs):
    model, ids = build("gpt2"), torch.tensor([prompt("ecg", 5)])
    model.save_pretrained(tmp_path / "model")
    torch.save({"ecgs": ecgs[:1], "ids": ids}, tmp_path / "inputs.pt")
    script = f"""
        import sys
        sys.modules["modeling_merit"] = None
        import torch
        from transformers import AutoModelForMultimodalLM
        model = AutoModelForMultimodalLM.from_pretrained({str(tmp_path / "model")!r}, trust_remote_code=True)
        inputs = torch.load({str(tmp_path / "inputs.pt")!r})
        ids = model.generate(inputs["ids"], input_values=inputs["ecgs"], max_new_tokens=6, min_new_tokens=6,
                             do_sample=False, pad_token_id=0)
        print(type(model).__module__.split(".")[0], ids[0].tolist())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = model.generate(ids, input_values=ecgs[:1], **GREEDY)[0].tolist()
    assert done.stdout.strip().splitlines()[-1] == f"transformers_modules {expected}"
