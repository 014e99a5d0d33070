"""Phi-3.5-mini and Phi-4-mini: linears that share an input are one matrix."""

from .adapter import Language

PHI3 = Language(
    "phi3",
    "Phi-3.5-mini, Phi-4-mini",
    unread=frozenset({"auto_map"}),  # names Microsoft's own code; transformers has the class
    linears={
        "q_proj": "qkv_proj",
        "k_proj": "qkv_proj",
        "v_proj": "qkv_proj",
        "gate_proj": "gate_up_proj",
        "up_proj": "gate_up_proj",
    },
)
