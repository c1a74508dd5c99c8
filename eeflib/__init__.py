"""eeflib: tune a small LLM agent by exploring from the states of a teacher's failures.

Importing the package costs numpy and msgspec; torch, transformers, openai and Java are imported
where they are used.
"""

from eeflib.errors import (
    ActionError,
    DataError,
    EefError,
    EnvironmentFault,
    PrerequisiteError,
    ProviderError,
    RestoreMismatch,
)
from eeflib.records import Branch, Sample, Step, Task, Trajectory, Usage

__version__ = "0.1.0"

__all__ = [
    "ActionError",
    "Branch",
    "DataError",
    "EefError",
    "EnvironmentFault",
    "PrerequisiteError",
    "ProviderError",
    "RestoreMismatch",
    "Sample",
    "Step",
    "Task",
    "Trajectory",
    "Usage",
    "__version__",
]
