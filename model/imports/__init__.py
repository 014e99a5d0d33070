"""Published checkpoints of GLaMM and LISA, brought in strictly: loaded, dropped by rule, or refused."""

from .checkpoint import Imported, import_ris_checkpoint
from .files import open_ris_checkpoint
from .place import build_imported

__all__ = ["Imported", "build_imported", "import_ris_checkpoint", "open_ris_checkpoint"]
