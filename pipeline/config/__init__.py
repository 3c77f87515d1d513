"""The options of an experiment, one frozen dataclass a section.

Each field is a line of the YAML file and an option of the command line
(``--section.field``); its description is the text of ``--help``.
"""

from pipeline.config.checks import require
from pipeline.config.data import DataConfig, Plane, PreprocessConfig, SplitConfig, TrackingConfig
from pipeline.config.results import AttentionConfig, EvaluateConfig, ExportConfig, PredictConfig, ReportConfig
from pipeline.config.studies import AuditConfig, FoldsConfig
from pipeline.config.training import AugmentConfig, LossName, PointAugmentConfig, TrainConfig

__all__ = [
    "AttentionConfig",
    "AuditConfig",
    "AugmentConfig",
    "DataConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FoldsConfig",
    "LossName",
    "Plane",
    "PointAugmentConfig",
    "PredictConfig",
    "PreprocessConfig",
    "ReportConfig",
    "SplitConfig",
    "TrackingConfig",
    "TrainConfig",
    "require",
]
