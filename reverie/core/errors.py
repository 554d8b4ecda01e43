"""What goes wrong, said once: what was asked, what was found, the mend.

Every error that a user can cause is one of these. All derive from ``ReverieError`` (a
``ValueError``), so a command line can show the sentence alone and exit non-zero, while a
programming error keeps its traceback. Imports nothing of ours.
"""

from __future__ import annotations


class ReverieError(ValueError):
    """Something a user can mend: the message says what was asked, what was found, the mend."""


class MissingHead(ReverieError):
    """An objective, behavior or evaluation asked a model for a head that it does not have."""


class MissingExtra(ReverieError):
    """A feature needs a package that is not installed; the message holds the pip command."""


class SpaceMismatch(ReverieError):
    """Observation or action spaces of two things that should fit do not."""


class ShapeMismatch(ReverieError):
    """A tensor has another shape or dtype than the contract says."""


class BadData(ReverieError):
    """An episode, store or file breaks the data contract."""


class BadCheckpoint(ReverieError):
    """A checkpoint is absent, torn, of another version, or of another model."""


class BadConfig(ReverieError):
    """A configuration value cannot be used; the message names the field."""


class UnknownName(ReverieError):
    """A name is not registered; the message lists the nearest and all known names."""


class NonFinite(ReverieError):
    """A loss, gradient or fitness became NaN or infinite; training stopped, nothing was lost."""


class Collapsed(ReverieError):
    """A representation says the same of everything; what would be built on it is worth nothing."""


class StorageFull(ReverieError):
    """The disk is full; what was written before is whole."""


class ContractBroken(ReverieError):
    """A world model fails ``check_world_model``; the message names the clause it breaks."""
