"""ONNX graphs of a checkpoint, for inference with onnxruntime and numpy, without torch and transformers.

Every graph takes ECGs in any number and of any length that is a multiple of the encoder's patch; leads that are absent
are said by `ecg_mask`. What a graph computes is compared with PyTorch before it is kept.
"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .benchmark.prompts import SCORE_MEANING
from .data.simulation import simulate_ecg
from .inference import SIMILARITY_WEIGHT, embed_prompts, load_scorer
from .record import DISCLAIMER
from .writers import placed

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-4
"""Largest difference of an output from that of PyTorch, in units of its largest value if that is above 1, with which a
graph is kept."""

OPSET = 20
"""Version of the ONNX operators."""

FACTS, PROMPTS = "merit.json", "prompts.npz"
"""Beside the graphs: how an ECG is prepared and what the outputs are; names and unit vectors of classes."""

MOST_TOGETHER = 16
"""Most ECGs of the batch with which a graph is compared."""

SIMULATED = (  # condition, seconds: what is compared and calibrated with where no ECGs are given
    ("sinus_rhythm", 10.0),
    ("left_bundle_branch_block", 10.0),
    ("atrial_fibrillation", 10.0),
    ("right_bundle_branch_block", 5.0),
    ("inferior_infarction", 2.5),
    ("sinus_bradycardia", 30.0),
    ("sinus_tachycardia+left_ventricular_hypertrophy", 7.3),
)


@dataclass(frozen=True)
class Graph:
    """A function of the model, inputs to trace it with, their dynamic axes, and the names of its outputs."""

    function: Callable[..., Any]
    inputs: dict[str, "torch.Tensor"]
    axes: dict[str, dict[int, Any]]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class ExportedGraph:
    """A graph on the disk.

    Args:
        name (`str`): `"ecg_encoder"`, `"text_encoder"`, `"zero_shot"` or `"classifier"`, with `".int8"` if quantised.
        path (`Path`): The file, which holds its weights.
        size (`int`): Bytes.
        max_difference (`float`): Largest difference of an output from that of PyTorch, as `TOLERANCE` counts it.
    """

    name: str
    path: Path
    size: int
    max_difference: float


def export_onnx(
    checkpoint: str,
    folder: str | Path,
    *,
    prompts: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    ecgs: Sequence[Any] | None = None,
    int8: bool = False,
    overwrite: bool = False,
) -> list[ExportedGraph]:
    """Write the ONNX graphs of a checkpoint, with what is needed to use them, into a folder.

    - `ecg_encoder.onnx`: `input_values` (float32) and `ecg_mask` (bool), both of shape `(ecgs, leads, samples)`, to
      `ecg_embeds` and `pooled`;
    - `text_encoder.onnx`: `input_ids` and `attention_mask` (int64, `(texts, tokens)`) to `text_embeds`;
    - `zero_shot.onnx`: ECGs, `prompt_embeds` of shape `(classes, projection_dim)` and, of a model that predicts words,
      `prompt_words` of shape `(classes, num_words)` to `score`, `relative_similarity` and `cosine_similarity`, as
      `score_prompts` computes them;
    - `classifier.onnx`, the only one of a classifier: ECGs to `logits`;
    - `merit.json`: how an ECG is prepared, what there is, what scores mean; `prompts.npz`: names, embeddings and
      words of the classes; `tokenizer.json`, which the package tokenizers reads.

    Args:
        checkpoint (`str`): Folder or Hub id of a `MeritModel` (also inside `MeritForPreTraining`) or of a
            `MeritForEcgClassification`.
        folder (`str` or `Path`): Made if absent.
        prompts (sequence of `str`, or mapping of `str` to sequence of `str`, *optional*): Texts or classes whose
            embeddings are stored, as `embed_prompts` takes them.
        ecgs (sequence, *optional*): ECGs that the processor takes, to compare each graph with PyTorch and to calibrate
            int8; simulated ones of 2.5 to 30 s by default.
        int8 (`bool`): Whether to write a quantised copy of each graph, too: weights and activations of 8 bits
            (convolutions and linear layers, activations calibrated on `ecgs`; the first layer stays as it is). The
            difference of such a copy is reported, not bounded.
        overwrite (`bool`): Whether files of these names may be replaced.

    Returns:
        `list[ExportedGraph]`: In the order of writing.

    Raises:
        ImportError: If onnx, onnxscript or onnxruntime is not installed.
        OSError, ValueError: If the checkpoint cannot be used, or a file is there already.
        RuntimeError: If a graph differs from PyTorch by more than `TOLERANCE`.

    Example:

    >>> import tempfile
    >>> from modeling_merit import MeritConfig, MeritFeatureExtractor, MeritForEcgClassification
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     MeritForEcgClassification(MeritConfig.from_size("tiny").ecg_config).save_pretrained(f"{folder}/model")
    ...     _ = MeritFeatureExtractor().save_pretrained(f"{folder}/model")
    ...     ecgs = [simulate_ecg("sinus_rhythm", seed=0, duration=5)]
    ...     [graph] = export_onnx(f"{folder}/model", f"{folder}/onnx", ecgs=ecgs)
    >>> graph.name, graph.max_difference < 1e-4
    ('classifier', True)
    """
    _require_onnx()
    model, processor = load_scorer(str(checkpoint))
    extractor = getattr(processor, "feature_extractor", processor)
    records = _simulated() if ecgs is None else list(ecgs)
    if prompts and processor is extractor:
        raise ValueError("Expected no prompts: this model is a classifier and reads no texts.")
    batches, graphs = _batches(extractor, records), _graphs(model, processor)
    folder = Path(folder)
    names = [f"{name}{suffix}.onnx" for name in graphs for suffix in ("", ".int8")[: 1 + int8]]
    names += [FACTS] + ([] if processor is extractor else ["tokenizer.json"]) + ([PROMPTS] if prompts else [])
    folder.mkdir(parents=True, exist_ok=True)
    exported: list[ExportedGraph] = []
    with placed([folder / name for name in names], overwrite) as paths, _quiet():
        files = dict(zip(names, paths))
        for name, graph in graphs.items():
            feeds = _feeds(model, graph, batches)
            written = {name: files[f"{name}.onnx"]}
            _write_graph(model, graph, written[name])
            if int8:
                written[f"{name}.int8"] = files[f"{name}.int8.onnx"]
                _quantize(written[name], written[f"{name}.int8"], feeds, head=name == "classifier")
            for title, path in written.items():
                difference = _difference(model, graph, path, feeds)
                found = ExportedGraph(title, folder / path.name, path.stat().st_size, difference)
                if title == name and not found.max_difference <= TOLERANCE:
                    raise RuntimeError(
                        f"Expected {name}.onnx to give what PyTorch gives, within {TOLERANCE:g}, got a difference of "
                        f"{found.max_difference:.2g}. Nothing is written."
                    )
                exported.append(found)
        if prompts:
            embedded = embed_prompts(model, processor, prompts)
            classes, vectors = np.array(embedded.names), embedded.embeddings
            if embedded.words is None:
                np.savez(files[PROMPTS], names=classes, embeddings=vectors)
            else:
                np.savez(files[PROMPTS], names=classes, embeddings=vectors, words=embedded.words)
        if "tokenizer.json" in files:
            processor.tokenizer.backend_tokenizer.save(str(files["tokenizer.json"]))
        facts = _facts(model, extractor) | {"graphs": {graph.name: _about(graph, graphs) for graph in exported}}
        files[FACTS].write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return exported


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Export needs onnx, onnxscript and onnxruntime, of which {error.name} is not installed. Install them "
            "with: pip install onnx onnxscript onnxruntime"
        ) from error


def _simulated() -> list[Any]:
    return [simulate_ecg(name, seed=seed, duration=s) for seed, (name, s) in enumerate(SIMULATED)]


def _batches(extractor: Any, records: Sequence[Any]) -> list[dict[str, "torch.Tensor"]]:
    """Return ECGs as tensors: each alone, some together, and these again with one lead, two leads and so on."""
    if not records:
        raise ValueError("Expected at least one ECG to compare the graphs with, got none.")
    together = dict(extractor(records[:MOST_TOGETHER], return_tensors="pt"))
    few = together | {"ecg_mask": together["ecg_mask"].clone()}
    for row, mask in enumerate(few["ecg_mask"]):
        mask[1 + row % len(mask) :] = False
    return [*(dict(extractor(record, return_tensors="pt")) for record in records), together, few]


def _graphs(model: Any, processor: Any) -> dict[str, Graph]:
    """Return the graphs of a model by name, out of its public methods alone."""
    import torch
    from torch.export import Dim

    config = getattr(model.config, "ecg_config", model.config)
    patch = config.patch_length
    seconds = 3 * (config.window_seconds or 5)  # several windows
    values = torch.zeros(3, len(config.leads), patch * (1 + int(seconds * config.sampling_rate) // patch))
    ecg = {"input_values": values, "ecg_mask": torch.ones_like(values, dtype=torch.bool)}
    ecg_axes = dict.fromkeys(ecg, {0: Dim("ecgs"), 2: patch * Dim("patches", min=2, max=2**16)})
    if not hasattr(model, "get_text_features"):
        return {"classifier": Graph(lambda model, *ecg: (model(*ecg).logits,), ecg, ecg_axes, ("logits",))}

    def encode(model, *ecg):
        pooled = model.ecg_model(*ecg).pooler_output
        return model.ecg_projection(pooled), pooled

    def zero_shot(model, values, mask, prompt_embeds, *prompt_words):
        """As `inference.score_embeddings`."""
        features, size = model.get_score_features(values, mask), prompt_embeds.shape[1]
        cosine = features[:, :size] @ prompt_embeds.T
        relative = cosine - cosine.mean(dim=1, keepdim=True)
        score = SIMILARITY_WEIGHT * model.get_logit_scale() * relative
        for words in prompt_words:
            score = score + features[:, size:] @ words.T
        return score, relative, cosine

    ids = torch.tensor([[1, 2, 3], [3, 2, 1]])
    tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    positions = getattr(model.config.text_config, "max_position_embeddings", 2**16)
    longest = min(processor.tokenizer.model_max_length, positions)
    prompts = {"prompt_embeds": torch.eye(3, model.config.projection_dim)}
    if model.config.num_words:
        prompts["prompt_words"] = torch.full((3, model.config.num_words), 1 / model.config.num_words)
    return {
        "ecg_encoder": Graph(encode, ecg, ecg_axes, ("ecg_embeds", "pooled")),
        "text_encoder": Graph(
            lambda model, *tokens: (model.get_text_features(*tokens).pooler_output,),
            tokens,
            dict.fromkeys(tokens, {0: Dim("texts"), 1: Dim("tokens", max=longest)}),
            ("text_embeds",),
        ),
        "zero_shot": Graph(
            zero_shot,
            ecg | prompts,
            ecg_axes | dict.fromkeys(prompts, {0: Dim("classes")}),
            ("score", "relative_similarity", "cosine_similarity"),
        ),
    }


def _feeds(model: Any, graph: Graph, batches: Sequence[dict[str, "torch.Tensor"]]) -> list[dict[str, "torch.Tensor"]]:
    """Return inputs of a graph: the ECGs, or texts of several lengths and numbers."""
    import torch

    if "input_values" in graph.inputs:
        return [graph.inputs | batch for batch in batches]
    generator, feeds = torch.Generator().manual_seed(0), []
    for texts, tokens in ((1, 2), (1, 9), (4, 5), (7, 16)):
        ids = torch.randint(model.config.text_config.vocab_size, (texts, tokens), generator=generator)
        mask = (torch.arange(tokens) <= torch.arange(texts)[:, None] + 1).long()
        feeds.append({"input_ids": ids, "attention_mask": mask})
    return feeds


def _write_graph(model: Any, graph: Graph, path: Path) -> None:
    import torch
    from torch import nn

    class Traced(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, *inputs):
            return graph.function(self.model, *inputs)

    axes = {"inputs": tuple(graph.axes[name] for name in graph.inputs)}
    with torch.no_grad():
        program = torch.export.export(Traced().eval(), tuple(graph.inputs.values()), dynamic_shapes=axes, strict=False)
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            verbose=False,
        )
    onnx_program.model.metadata_props["disclaimer"] = DISCLAIMER
    onnx_program.save(str(path), external_data=False)


def _difference(model: Any, graph: Graph, path: Path, feeds: Sequence[Mapping[str, "torch.Tensor"]]) -> float:
    """Return the largest difference between the outputs of a file and of PyTorch, in units of the output's largest
    value where that is above 1, as the features of early stages are; NaN if one has NaN."""
    import torch

    session, differences = open_session(path), []
    for feed in feeds:
        found = session.run(list(graph.outputs), {name: tensor.numpy() for name, tensor in feed.items()})
        with torch.no_grad():
            expected = graph.function(model, *feed.values())
        for ours, theirs in zip(found, (output.numpy() for output in expected)):
            differences.append(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))
    return float(np.max(differences))


def open_session(path: str | Path, threads: int = 0) -> Any:
    """Return an `onnxruntime.InferenceSession` on the CPU, with as many threads as there are cores or as told."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _quantize(source: Path, target: Path, feeds: Sequence[Mapping[str, "torch.Tensor"]], head: bool) -> None:
    """Write a copy with weights and activations of 8 bits; what meets the ECG first stays as it is.

    The first convolution sees millivolts, of which 8 bits over the range of a large QRS would hide a P wave. Products
    of two activations (attention, similarities) stay, too, and so does the last layer if it is the `head` of a
    classifier: a linear probe weighs small differences of its features. See `results/onnx.json` for what 8 bits cost.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.feeds = iter(feeds)

        def get_next(self):
            feed = next(self.feeds, None)
            return feed and {name: tensor.numpy() for name, tensor in feed.items()}

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    model = onnx.load(prepared)
    weights = {tensor.name for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    excluded = [node.name for node in layers if not weights & set(node.input)]
    weighted = [node.name for node in layers if weights & set(node.input)]
    excluded += weighted[:1] + (weighted[-1:] if head else [])
    quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=excluded,
    )
    prepared.unlink()


def _facts(model: Any, extractor: Any) -> dict[str, Any]:
    """Return how an ECG is prepared for the graphs, and what their outputs mean."""
    names = ("sampling_rate", "leads", "derive_leads", "high_pass", "normalization", "resample_window", "min_seconds")
    facts: dict[str, Any] = {name: getattr(extractor, name) for name in (*names, "max_seconds")}
    facts["multiple_of"] = getattr(model.config, "ecg_config", model.config).patch_length  # samples
    if hasattr(model, "classifier"):
        facts |= {"labels": list(model.config.id2label.values()), "problem_type": model.config.problem_type}
    else:
        facts["score_meaning"] = SCORE_MEANING
    return facts | {"disclaimer": DISCLAIMER}


def _about(exported: ExportedGraph, graphs: Mapping[str, Graph]) -> dict[str, Any]:
    graph = graphs[exported.name.removesuffix(".int8")]
    about = {"file": exported.path.name, "inputs": list(graph.inputs), "outputs": list(graph.outputs)}
    return about | {"bytes": exported.size, "max_difference_to_pytorch": exported.max_difference}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporter says of its own progress and of packages that it does not need."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", None)]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


__all__ = ["OPSET", "TOLERANCE", "ExportedGraph", "export_onnx", "open_session"]
