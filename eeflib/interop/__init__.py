"""eeflib's environments and records, to other libraries and from them.

`trl_tools`, `trl_rollouts`, `trl_reward` and `trl_dataset`: an environment, or a student in one, in
trl's GRPOTrainer. `openenv`: a server of environments. `gymnasium`: an environment as a
`gymnasium.Env`. `verl_agent`: WebShop in batches as verl-agent has them. `verifiers`: WebShop as a
taskset of that library. `ray`: a student's episodes on a cluster. `read` (with `formats` and
`sources`): trajectories that others recorded; `imported`: a run of them.
"""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

from eeflib.errors import PrerequisiteError

if TYPE_CHECKING:
    from eeflib.interop.trl import trl_dataset, trl_reward, trl_rollouts, trl_tools

__all__ = ["trl_dataset", "trl_reward", "trl_rollouts", "trl_tools"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"eeflib.interop has no {name!r}; see eeflib.interop.__all__")
    return getattr(importlib.import_module("eeflib.interop.trl"), name)


def require(package: str, least: str, extra: str | None = None) -> None:
    """Raise PrerequisiteError unless `package` is there, of `least` or a later 'minor' version.

    Args:
        least: as `1.16`; a version with another first number counts as another library.
        extra: of eeflib, that installs it; None: it needs an environment of its own.
    """
    major, minor = (int(part) for part in least.split("."))
    own = f"run `pip install eeflib '{package}>={least},<{major + 1}'` in an environment of its own"
    remedy = f"run `pip install 'eeflib[{extra}]'`" if extra else own
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise PrerequisiteError(f"{package} is not installed; {remedy}") from None
    parts = found.split(".")
    if parts[0] != str(major) or not parts[1].isdigit() or int(parts[1]) < minor:
        raise PrerequisiteError(
            f"{package} {found} is installed, {least} or newer and below {major + 1} is needed; "
            f"{remedy}"
        )
