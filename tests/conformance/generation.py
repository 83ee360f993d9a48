"""Tests of `generate`, after what `GenerationTesterMixin` of transformers asks of a model.

The source distribution of transformers lacks the file of that mixin. Where a checkout of the repository has it
(TRANSFORMERS_REPOSITORY), its tests are run, too.
"""

import torch
from transformers import DynamicCache
from upstream import modeling

BATCH = 7  # the suites add rows of random tokens to fewer
NEW = 5
GREEDY = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}


class GenerationTests(modeling.GenerationTesterMixin):
    def build(self, seed: int = 0):
        """Return a model whose weights are large enough for the ECGs to change what is written, and inputs."""
        torch.manual_seed(seed)
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = self.all_model_classes[0](config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.mul_(10)
        return model, inputs

    def one(self, inputs: dict, row: int = 0) -> dict:
        return {name: values[row : row + 1] for name, values in inputs.items()}

    def test_what_is_written_depends_on_the_ecg(self):
        model, inputs = self.build()
        other = inputs | {"input_values": inputs["input_values"].flip(0) * 3}
        written, changed = (model.generate(**given, **GREEDY)[:, -NEW:] for given in (inputs, other))
        self.assertNotEqual(written.tolist(), changed.tolist())

    def test_greedy_generate_dict_outputs(self):
        model, inputs = self.build()
        model.set_attn_implementation("eager")
        options = {"output_scores": True, "output_logits": True, "output_hidden_states": True}
        output = model.generate(
            **inputs, **GREEDY, **options, output_attentions=True, return_dict_in_generate=True, use_cache=True
        )
        prompt, text = inputs["input_ids"].shape[1], model.config.text_config
        self.assertEqual(output.sequences.shape, (BATCH, prompt + NEW))
        for name in ("scores", "logits"):
            self.assertEqual([part.shape for part in output[name]], [(BATCH, text.vocab_size)] * NEW)
        for step, (states, weights) in enumerate(zip(output.hidden_states, output.attentions)):
            read, seen = (prompt, prompt) if step == 0 else (1, prompt + step)
            self.assertEqual({part.shape for part in states}, {(BATCH, read, text.hidden_size)})
            self.assertEqual({part.shape for part in weights}, {(BATCH, text.num_attention_heads, read, seen)})
            self.assertEqual((len(states), len(weights)), (text.num_hidden_layers + 1, text.num_hidden_layers))
        self.assertEqual(output.past_key_values.get_seq_length(), prompt + NEW - 1)

    def test_generate_without_a_cache(self):
        model, inputs = self.build()
        cached, uncached = (model.generate(**inputs, **GREEDY, use_cache=cache) for cache in (True, False))
        self.assertEqual(cached.tolist(), uncached.tolist())

    def test_sample_generate(self):
        model, inputs = self.build()
        drawn = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            options = {"do_sample": True, "num_return_sequences": 2, "min_new_tokens": NEW, "max_new_tokens": NEW}
            drawn.append(model.generate(**inputs, **options, temperature=5.0).tolist())
        self.assertTrue(drawn[0] == drawn[1] != drawn[2])
        self.assertEqual(len(drawn[0]), 2 * len(inputs["input_ids"]))

    def test_beam_search_generate(self):
        model, inputs = self.build()
        together = model.generate(**inputs, **GREEDY, num_beams=2, num_return_sequences=2)
        alone = [
            model.generate(**self.one(inputs, row), **GREEDY, num_beams=2, num_return_sequences=2)
            for row in range(BATCH)
        ]
        self.assertEqual(together.tolist(), torch.cat(alone).tolist())

    def test_beam_sample_generate(self):
        model, inputs = self.build()
        output = model.generate(**inputs, **GREEDY | {"do_sample": True}, num_beams=2)
        self.assertEqual(output.shape, (BATCH, inputs["input_ids"].shape[1] + NEW))

    def test_generate_with_hidden_states_of_the_encoder(self):
        model, inputs = self.build()
        encoded = model.ecg_model(inputs["input_values"])
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        for options in ({}, {"num_beams": 3}, {"use_cache": False}):
            expected = model.generate(**inputs, **GREEDY, **options)
            output = model.generate(**given, ecg_hidden_states=encoded.last_hidden_state, **GREEDY, **options)
            self.assertEqual(output.tolist(), expected.tolist())

    def test_prompt_lookup_decoding_matches_greedy_search(self):
        model, inputs = self.build()
        given = self.one(inputs)
        expected = model.generate(**given, **GREEDY)
        self.assertEqual(model.generate(**given, **GREEDY, prompt_lookup_num_tokens=2).tolist(), expected.tolist())

    def test_assisted_decoding_matches_greedy_search(self):
        model, inputs = self.build()
        for seed in (0, 1):  # an assistant that agrees, and one that does not
            assistant, given = self.build(seed)[0], self.one(inputs)
            calls = []
            assistant.ecg_model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
            expected = model.generate(**given, **GREEDY)
            output = model.generate(**given, **GREEDY, assistant_model=assistant)
            self.assertEqual(output.tolist(), expected.tolist())
            self.assertEqual(len(calls), 1)  # the assistant has read the ECG, once

    def test_assisted_decoding_sample(self):
        model, inputs = self.build()
        given, assistant = self.one(inputs), self.build(1)[0]
        options = GREEDY | {"do_sample": True}
        self.assertEqual(model.generate(**given, **options, assistant_model=assistant).shape[1], 19 + NEW)

    def test_an_assistant_that_reads_no_ecgs_is_refused(self):
        model, inputs = self.build()
        with self.assertRaisesRegex(ValueError, "an `assistant_model` that reads ECGs"):
            model.generate(**self.one(inputs), **GREEDY, assistant_model=model.language_model)

    def test_left_padding_compatibility(self):
        model, inputs = self.build()
        padding = torch.zeros(BATCH, 4, dtype=torch.long)
        padded = inputs | {name: torch.cat([padding, inputs[name]], dim=1) for name in ("input_ids", "attention_mask")}
        logits, shifted = (model(**given).logits[:, -1] for given in (inputs, padded))
        torch.testing.assert_close(logits, shifted, rtol=1e-4, atol=1e-4)
        self.assertEqual(
            model.generate(**padded, **GREEDY)[:, -NEW:].tolist(),
            model.generate(**inputs, **GREEDY)[:, -NEW:].tolist(),
        )

    def test_generate_from_inputs_embeds(self):
        model, inputs = self.build()
        embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
        without = {name: values for name, values in inputs.items() if name != "input_ids"}
        for options in ({}, {"num_beams": 2}, {"cache_implementation": "static"}):
            expected = model.generate(**inputs, **GREEDY, **options)
            both = model.generate(**inputs, inputs_embeds=embeds, **GREEDY, **options)
            self.assertEqual(both.tolist(), expected.tolist())
            alone = model.generate(**without, inputs_embeds=embeds, **GREEDY, **options)
            self.assertEqual(alone.tolist(), expected[:, -NEW:].tolist())

    def test_generate_continue_from_past_key_values(self):
        model, inputs = self.build()
        given, whole = self.one(inputs), {**GREEDY, "max_new_tokens": NEW}
        expected = model.generate(**given, **whole)
        for again in ({}, {"input_values": given["input_values"]}):
            options = GREEDY | {"max_new_tokens": 2, "min_new_tokens": 2}
            first = model.generate(**given, **options, return_dict_in_generate=True)
            options = GREEDY | {"max_new_tokens": NEW - 2, "min_new_tokens": NEW - 2}
            output = model.generate(first.sequences, past_key_values=first.past_key_values, **again, **options)
            self.assertEqual(output.tolist(), expected.tolist())

    def test_a_second_question_with_a_second_ecg(self):
        model, inputs = self.build()
        given, later = self.one(inputs), self.one(inputs, 1)
        values = torch.cat([given["input_values"], later["input_values"]])
        for passed in (values, later["input_values"]):
            first = model.generate(**given, **GREEDY, return_dict_in_generate=True)
            ids = torch.cat([first.sequences, later["input_ids"]], dim=1)
            expected = model.generate(ids, input_values=values, **GREEDY)
            output = model.generate(ids, input_values=passed, past_key_values=first.past_key_values, **GREEDY)
            self.assertEqual(output.tolist(), expected.tolist())

    def test_generate_with_static_cache(self):
        model, inputs = self.build()
        static = model.generate(**inputs, **GREEDY, cache_implementation="static")
        self.assertEqual(static.tolist(), model.generate(**inputs, **GREEDY).tolist())

    def test_generate_methods_with_logits_to_keep(self):
        model, inputs = self.build()
        self.assertTrue(model._supports_logits_to_keep())
        whole, last = model(**inputs).logits, model(**inputs, logits_to_keep=1).logits
        torch.testing.assert_close(last, whole[:, -1:])

    def test_a_decoding_step_compiles_without_graph_break(self):
        model, inputs = self.build()
        cache = DynamicCache(config=model.config.get_text_config(decoder=True))
        model(**inputs, past_key_values=cache)
        token, position = torch.full((BATCH, 1), 7), torch.full((BATCH, 1), inputs["input_ids"].shape[1])
        expected = model(token, past_key_values=cache, position_ids=position).logits
        cache.crop(-1)
        compiled = torch.compile(model.forward, fullgraph=True, backend="eager", dynamic=False)
        with torch.no_grad():
            output = compiled(token, past_key_values=cache, position_ids=position).logits
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)

    def test_a_misspelt_argument_is_refused(self):
        model, inputs = self.build()
        with self.assertRaisesRegex(ValueError, "input_valuse"):
            model.generate(**inputs, input_valuse=inputs["input_values"], **GREEDY)
