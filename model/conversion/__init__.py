"""Strict conversion of published GLaMM and LISA checkpoints."""

from .convert import Imported, import_ris_checkpoint, open_ris_checkpoint
from .fill_model import build_imported

__all__ = ["Imported", "build_imported", "import_ris_checkpoint", "open_ris_checkpoint"]
