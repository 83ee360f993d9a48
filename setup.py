"""Packaging of merit-ecg. The folder `processing/` is imported as `modeling_merit.processing`."""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "modeling_merit/__init__.py").read_text("utf-8"), re.M)[1]

PACKAGES = ("readers", "writers", "data", "metrics", "benchmark", "commands", "probing", "training")

EXTRAS = {
    "plot": ["matplotlib>=3.8,<4"],
    "formats": ["pydicom>=3,<4", "edfio>=0.4,<1", "defusedxml>=0.7,<1", "h5py>=3.11,<4", "soundfile>=0.12,<1"],
    "generation": ["peft>=0.19,<1", "rouge-score>=0.1.2,<1", "nltk>=3.9,<4"],
    "trackers": ["tensorboard>=2.16,<3"],
    "explain": ["captum>=0.7,<1"],
    "onnx": ["onnx>=1.19,<2", "onnxscript>=0.5,<1", "onnxruntime>=1.22,<2"],
    "search": ["lancedb>=0.30,<1"],
    "ray": ["ray[data]>=2.50,<3"],
    "space": ["gradio>=6,<7"],
}
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5,<10", "mkdocstrings[python]>=1,<2"]
EXTRAS["dev"] = [
    *(requirement for requirements in EXTRAS.values() for requirement in requirements),
    "pytest>=8,<10",
    "neurokit2>=0.2.12,<1",
    "pytest-timeout>=2.3,<3",
    "pytest-xdist>=3.6,<4",
    "hypothesis>=6.100,<7",
    "nbclient>=0.10,<1",  # runs notebooks/, with the kernel of the next
    "ipykernel>=6.29,<8",
    "parameterized>=0.9,<1",  # imported by the suites of `make test-conformance`
    "ruff>=0.12,<1",
    "mypy>=1.15,<3",
    "pre-commit>=4,<5",
    *DOCS,
]
EXTRAS["docs"] = DOCS

setup(
    name="merit-ecg",
    version=VERSION,
    description="MERIT: ECG-text foundation models for the Hugging Face Hub",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    author="The merit-ecg authors",
    maintainer="The merit-ecg authors",
    keywords=[
        "electrocardiogram",
        "ECG",
        "foundation model",
        "multimodal",
        "contrastive learning",
        "masked modelling",
    ],
    project_urls={"Paper": "https://arxiv.org/abs/2605.27583", "Data": "https://physionet.org/content/ptb-xl/1.0.3/"},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Healthcare Industry",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(11, 15)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
    packages=[
        "modeling_merit",
        "modeling_merit.processing",
        *(f"modeling_merit.processing.{name}" for name in PACKAGES),
    ],
    package_dir={
        "modeling_merit": "modeling_merit",
        "modeling_merit.processing": "processing",
        **{f"modeling_merit.processing.{name}": f"processing/{name}" for name in PACKAGES},
    },
    package_data={
        "modeling_merit": ["py.typed"],
        "modeling_merit.processing.benchmark": ["*.json"],
        "modeling_merit.processing.metrics": ["*.json", "*/*.py"],
    },
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.7,<3",
        "transformers>=5.23,<6",
        "datasets>=5.2,<6",
        "accelerate>=1.10,<2",
        "safetensors>=0.5,<1",
        "huggingface-hub>=2,<3",
        "evaluate>=0.4.6,<1",
        "filelock>=3.16,<5",
        "wfdb>=4.3,<5",
        "numpy>=2,<3",
        "scipy>=1.13,<2",
        "pandas>=2.2,<4",
        "scikit-learn>=1.7,<2",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["merit-ecg = modeling_merit.processing.cli:main"]},
)
