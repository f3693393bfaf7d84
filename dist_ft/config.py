"""All settings of a training run, checked together.

A Config is all groups of settings, so a function that needs one group can be given a Config and
take, say, `recipe: RecipeSettings`.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dist_ft.conflicts import conflicts
from dist_ft.job_settings import DistributedSettings, OutputSettings
from dist_ft.recipe_settings import (
    AugmentationSettings,
    DataSettings,
    ModelSettings,
    RecipeSettings,
)
from dist_ft.settings import ConfigError, type_problems, value_problems

# In the order of --help.
GROUPS = (
    DataSettings,
    AugmentationSettings,
    ModelSettings,
    RecipeSettings,
    DistributedSettings,
    OutputSettings,
)


@dataclass(frozen=True)
class Config(
    OutputSettings,
    DistributedSettings,
    RecipeSettings,
    ModelSettings,
    AugmentationSettings,
    DataSettings,
):
    """The settings of one training run; bases are listed backwards, so that fields are in order.

    Raises ConfigError, with one line for each problem, when built with unusable values.
    """

    def __post_init__(self):
        problems = [*type_problems(self)]
        problems = problems or [*value_problems(self), *conflicts(self)]
        if problems:
            raise ConfigError("\n".join(problems))

    @property
    def folder(self) -> Path:
        """Folder of the run's files."""
        return Path(self.out) if self.out else Path("runs", Path(os.path.abspath(self.data)).name)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# Names of the settings that a resumed run may change.
FREE_ON_RESUME = frozenset(f.name for f in fields(Config) if f.metadata["may_change"])
