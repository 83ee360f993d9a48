"""`SequenceFeatureExtractionTestMixin` of transformers on the feature extractor.

The mixin pads arrays of (samples,) or (samples, features). An ECG is (leads, samples), so it runs on one lead here,
and `tests/test_feature_extraction.py` tests `pad` on several.
"""

import unittest

import numpy as np
from upstream import feature_extraction

from modeling_merit import MeritFeatureExtractor


class Tester:
    batch_size, min_seq_length, max_seq_length, feature_size = 7, 400, 2000, 1
    seq_length_diff = (max_seq_length - min_seq_length) // (batch_size - 1)

    def prepare_feat_extract_dict(self) -> dict:
        return {"feature_size": 1, "leads": ["II"], "padding_value": 0.0, "sampling_rate": 500}

    def prepare_inputs_for_common(self, equal_length: bool = False, numpify: bool = False) -> list:
        lengths = range(self.min_seq_length, self.max_seq_length, self.seq_length_diff)
        generator = np.random.default_rng(0)
        signals = [generator.random(self.max_seq_length if equal_length else length) for length in lengths]
        return signals if numpify else [signal.tolist() for signal in signals]


class MeritFeatureExtractorTest(feature_extraction.SequenceFeatureExtractionTestMixin, unittest.TestCase):
    feature_extraction_class = MeritFeatureExtractor

    def setUp(self):
        self.feat_extract_tester = Tester()
