"""`ConfigTester` of transformers on every configuration class, one test per check."""

import unittest

from suite_models import ENCODER, DualTester, EcgTester, GenerationTester, Tester
from upstream import configuration

from modeling_merit import MeritConfig, MeritEcgConfig, MeritGenerationConfig

CHECKS = tuple(name for name in dir(configuration.ConfigTester) if name.startswith(("create_and_test", "check_")))


class ConfigurationTest:
    config_class: type
    make_tester: type[Tester]
    arguments: dict

    def setUp(self):
        self.model_tester = self.make_tester(self)
        self.tester = configuration.ConfigTester(
            self, config_class=self.config_class, has_text_modality=False, **self.arguments
        )

    def __init_subclass__(cls):
        super().__init_subclass__()
        for check in CHECKS:

            def test(self, check=check):
                getattr(self.tester, check)()

            setattr(cls, f"test_{check.removeprefix('create_and_test_')}", test)


class MeritEcgConfigTest(ConfigurationTest, unittest.TestCase):
    config_class, make_tester = MeritEcgConfig, EcgTester
    arguments = ENCODER | {"common_properties": ["hidden_size"]}


class MeritConfigTest(ConfigurationTest, unittest.TestCase):
    config_class, make_tester = MeritConfig, DualTester
    arguments = {"projection_dim": 8}


class MeritGenerationConfigTest(ConfigurationTest, unittest.TestCase):
    config_class, make_tester = MeritGenerationConfig, GenerationTester
    arguments = {"num_ecg_tokens": 24}
