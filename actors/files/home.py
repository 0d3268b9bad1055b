"""What is done to shards is done to those of one data directory, for one view."""

from dataclasses import dataclass

from kycache.model.view import View

from .directory import DataDirectory
from .environment import Environments


@dataclass(frozen=True, slots=True)
class Home:
    """A data directory, the files of it that this process has open, and the view that they hold."""

    directory: DataDirectory
    environments: Environments
    view: View
