"""Features of a frozen encoder: what their cache is named by."""

import datasets
import numpy as np
from tiny_models import ENCODER, build

from modeling_merit import MeritEcgConfig, MeritEcgModel, MeritFeatureExtractor
from modeling_merit.processing.probing.embeddings import embed_tables


def test_cached_features_are_those_of_the_extractor(tmp_path):
    """Equal weights and signals, but another normalisation: the features of the first must not be taken."""
    columns = {"signal": datasets.Array2D((12, 1000), "int16"), "report": datasets.Value("string")}
    signals = np.random.default_rng(0).integers(-900, 900, (3, 12, 1000), dtype=np.int16)
    rows = {"signal": list(signals), "report": ["a", "b", "c"]}
    tables = {"test": datasets.Dataset.from_dict(rows, datasets.Features(columns))}
    encoder = build(MeritEcgModel, MeritEcgConfig(**ENCODER)).eval()
    plain, scaled = MeritFeatureExtractor(), MeritFeatureExtractor(normalization="record_zscore")
    first, again, other = (
        embed_tables(encoder, extractor, tables, tmp_path)[0]["test"] for extractor in (plain, plain, scaled)
    )
    assert np.array_equal(first, again) and len(list(tmp_path.iterdir())) == 2
    assert np.abs(first - other).max() > 1e-3
