"""How fast an ECG is embedded, and a step trained, beside networks of the shapes of published ECG encoders.

    python benchmarks/inference.py --model hub_cards/merit-ecg --output results/benchmarks/inference.json

The peers are shapes, built from transformers' own classes (and a ResNet-18 of one dimension) with random weights: what
they compute takes the time that theirs takes, what they find does not count. All see one ECG of the length that its
authors use, 12 leads; MERIT sees ten seconds at 100 Hz. Each is timed in turn, in one process, so that what else the
machine does meets all alike; a time is the median. A training step is one forward and backward pass of the mean of
the features, with AdamW, of 16 ECGs; `--compile` adds one of MERIT under `torch.compile`. Operations are counted by
`torch.utils.flop_counter` (a multiplication and an addition are two). `--memory` measures instead, in a process for
each shape, by how much embedding 32 ECGs, and a training step, raise the most memory that the process has held:

    python benchmarks/inference.py --memory --output results/benchmarks/memory.json

Not a medical device.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.parametrize import remove_parametrizations
from torch.utils.flop_counter import FlopCounterMode
from transformers import HubertConfig, HubertModel, ViTConfig, ViTModel, Wav2Vec2Config, Wav2Vec2Model

from modeling_merit import MeritConfig, MeritEcgModel
from modeling_merit.processing import EcgRecord
from modeling_merit.processing.benchmark.results import provenance, write_json
from modeling_merit.processing.data.simulation import simulate_ecg
from modeling_merit.processing.inference import embed_ecgs, load_checkpoint
from modeling_merit.processing.writers import write_ecg

TRAINED = 16


class ResNet18(nn.Module):
    """He et al. (CVPR 2016) in one dimension."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv1d(12, 64, 7, 2, 3, bias=False), nn.BatchNorm1d(64), nn.ReLU(), nn.MaxPool1d(3, 2, 1)]
        inputs = 64
        for width in (64, 128, 256, 512):
            for block in range(2):
                layers.append(Block(inputs, width, 2 if width > 64 and not block else 1))
                inputs = width
        self.body = nn.Sequential(*layers)

    def forward(self, ecgs):
        return self.body(ecgs).mean(dim=2)


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm1d(outputs),
            nn.ReLU(),
            nn.Conv1d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm1d(outputs),
        )
        shortcut = [nn.Conv1d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm1d(outputs)]
        self.shortcut = nn.Sequential(*(shortcut if stride > 1 or inputs != outputs else []))

    def forward(self, x):
        return torch.relu(self.convolutions(x) + self.shortcut(x))


class Features(nn.Module):
    """A model of transformers that returns the mean of its last hidden states."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        return self.model(inputs).last_hidden_state.mean(dim=1)


class Pooled(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        return self.model(inputs).pooler_output


def speech(model):
    """Return a model of sounds without the weight normalisation of its positions, as one would use it."""
    remove_parametrizations(model.encoder.pos_conv_embed.conv, "weight")
    return Features(model)


def vit(samples, patch):
    config = ViTConfig(image_size=(12, samples), patch_size=(1, patch), num_channels=1)
    return Features(ViTModel(config, add_pooling_layer=False))


def models(checkpoint):
    """Return what makes each module, and the shape of one ECG for it."""
    base = MeritConfig.from_size("base", ecg_config={"window_seconds": 2.56}).ecg_config
    options = {"mask_time_prob": 0.0, "layerdrop": 0.0, "conv_dim": (512,) * 4}
    return {
        "merit-ecg, 10 s at 100 Hz": (lambda: Pooled(MeritEcgModel.from_pretrained(checkpoint)), (12, 1000)),
        "merit-ecg of size base": (lambda: Pooled(MeritEcgModel(base)), (12, 1000)),
        "ViT-B over 240 patches (ST-MEM)": (lambda: vit(1500, 75), (1, 12, 1500)),
        "ViT-B over 360 patches (ECG-Soup)": (lambda: vit(2250, 75), (1, 12, 2250)),
        # Twelve leads of 5 s at 100 Hz behind one another, 93 vectors.
        "HuBERT base (HuBERT-ECG)": (
            lambda: speech(HubertModel(HubertConfig(**options, conv_kernel=(10, 3, 3, 2), conv_stride=(4, 2, 2, 4)))),
            (6000,),
        ),
        # 5 s at 500 Hz, 156 vectors; one channel here, which spares the first convolution most of its work.
        "wav2vec 2.0 base (ECG-FM)": (
            lambda: speech(
                Wav2Vec2Model(Wav2Vec2Config(**options, conv_kernel=(2, 2, 2, 2), conv_stride=(2, 2, 2, 2)))
            ),
            (2500,),
        ),
        "ResNet-18 at 5,000 samples (MERL)": (ResNet18, (12, 5000)),
    }


def timed(calls, repeats):
    """Return the median milliseconds of each call, in turns."""
    times = {name: [] for name in calls}
    for repeat in range(repeats + 1):  # the first warms up
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name] += [1000 * (time.perf_counter() - start)] if repeat else []
    return {name: statistics.median(values) for name, values in times.items()}


def training_step(model, inputs):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step():
        model.train()
        model(inputs).float().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        model.eval()

    return step


def memory(checkpoint, name, threads):
    """Return the megabytes that a module with 32 ECGs, and then a training step, add to the most that was held."""
    torch.set_num_threads(threads)
    make, shape = models(checkpoint)[name]
    held = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]
    model = make().eval()
    with torch.inference_mode():
        model(torch.randn(32, *shape))
    held.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    training_step(model, torch.randn(TRAINED, *shape))()
    held.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return {"embedding_mb": (held[1] - held[0]) / 1e3, "training_mb": (held[2] - held[0]) / 1e3}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hub_cards/merit-ecg", help="Checkpoint folder or Hub id.")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="Also a training step under torch.compile.")
    parser.add_argument("--memory", action="store_true", help="Measure memory instead of time.")
    parser.add_argument("--output", type=Path, default=Path("results/benchmarks/inference.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.memory:
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            rows = {}
            for name in models(args.model):
                rows[name] = pool.apply(memory, (args.model, name, args.threads))
                print(name, rows[name], flush=True)
        return write_json(args.output, {**provenance(seed=0), "threads": args.threads, "rows": rows})

    ecg = simulate_ecg("sinus_rhythm", seed=0, sampling_rate=500)
    record = EcgRecord(ecg.signal, ecg.sampling_rate, ecg.leads)
    path = args.output.parent / "inference_ecg.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_ecg(record, path, overwrite=True)
        model, processor = load_checkpoint(args.model)
        calls = {"file to embedding": lambda: embed_ecgs(model, processor, str(path), "pooled")}
        milliseconds = timed(calls, 20)["file to embedding"]
    finally:
        path.unlink(missing_ok=True)
    networks, rows = {name: (make(), shape) for name, (make, shape) in models(args.model).items()}, {}
    for name, (model, shape) in networks.items():
        counter = FlopCounterMode(display=False)
        with torch.inference_mode(), counter:
            model.eval()(torch.randn(1, *shape))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        rows[name] = {"parameters": parameters, "gflop_per_ecg": counter.get_total_flops() / 1e9}
    for size in (1, 32):
        inputs = {name: torch.randn(size, *shape) for name, (_, shape) in networks.items()}
        with torch.inference_mode():
            calls = {name: lambda m=model, x=inputs[name]: m(x) for name, (model, _) in networks.items()}
            for name, value in timed(calls, args.repeats).items():
                rows[name][f"ecgs_per_s_batch_{size}"] = 1000 * size / value
    inputs = {name: torch.randn(TRAINED, *shape) for name, (_, shape) in networks.items()}
    steps = {name: training_step(model, inputs[name]) for name, (model, _) in networks.items()}
    for name, value in timed(steps, max(2, args.repeats // 3)).items():
        rows[name]["training_ecgs_per_s"] = 1000 * TRAINED / value
    if args.compile:
        model, shape = next(iter(networks.values()))
        step = training_step(torch.compile(model), torch.randn(TRAINED, *shape))
        started = time.perf_counter()
        step()
        compiling = time.perf_counter() - started
        both = timed({"plain": next(iter(steps.values())), "compiled": step}, args.repeats)
        compiled = {"speed_of_plain": both["plain"] / both["compiled"], "seconds_to_compile": compiling}
    matrix = torch.randn(1024, 1024)
    product = timed({"product": lambda: matrix @ matrix}, 10)["product"]
    peak = 2 * 1024**3 / product / 1e6  # GFLOP/s of float32 matrix products
    for row in rows.values():
        row["gflop_per_s_batch_32"] = row["gflop_per_ecg"] * row["ecgs_per_s_batch_32"]

    about = {
        "threads": args.threads,
        "gflop_per_s_of_a_matrix_product": peak,
        "ms_from_file_to_embedding": milliseconds,
    }
    about |= {f"compiled_step_{name}": value for name, value in compiled.items()} if args.compile else {}
    about["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    write_json(args.output, provenance(seed=0) | about | {"rows": rows})
    for name, row in rows.items():
        print(f"{name:36s}", *(f"{key} {value:,.4g}" for key, value in row.items()), sep="  ")
    print({key: round(value, 1) for key, value in about.items()})


if __name__ == "__main__":
    main()
