"""The settings of a run: their types, defaults, descriptions and checks.

A `Config` describes a whole run. It consists of sections (``input``, ``model``, ``decoding`` and so on), each a frozen
pydantic model whose fields carry the unit in their name and a description that becomes ``--help`` and
docs/configuration.md. Values that are out of range and settings that contradict each other are refused here, before
anything is started. Settings that depend on the checkpoint (``auto``) are resolved when a run is set up
(`distil_ray.pipeline.setup`), and the choice is logged.

Start with `config.py`, which lists the sections. `loader.py` reads YAML files and command-line overrides and explains
errors; `reference_page.py` renders the documentation. This folder imports neither torch nor Ray.
"""

from distil_ray.config.base import Section
from distil_ray.config.config import Config
from distil_ray.config.data import ColumnsConfig, InputConfig, OutputConfig, StorageConfig
from distil_ray.config.evaluation import NightlyConfig, ReportConfig, ScoringConfig
from distil_ray.config.recognition import ChunkingConfig, DecodingConfig, ModelConfig, VadConfig
from distil_ray.config.resources import PlanConfig, ResourcesConfig
from distil_ray.config.training import AssistantConfig, LabelFiltersConfig, LabelsConfig

__all__ = [
    "AssistantConfig",
    "ChunkingConfig",
    "ColumnsConfig",
    "Config",
    "DecodingConfig",
    "InputConfig",
    "LabelFiltersConfig",
    "LabelsConfig",
    "ModelConfig",
    "NightlyConfig",
    "OutputConfig",
    "PlanConfig",
    "ReportConfig",
    "ResourcesConfig",
    "ScoringConfig",
    "Section",
    "StorageConfig",
    "VadConfig",
]
