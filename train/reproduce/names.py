"""What the command line may ask for; importing this imports nothing else."""

from typing import Final

TABLE_NAMES: Final = (
    "table1", "table2", "table3", "table4", "table5", "table6", "table7", "tableC", "fig5",
)  # fmt: skip
TABLE_SIZES: Final = ("tiny", "paper")
ALL: Final = "all"  # every table, in a plan
GPU_NAMES: Final = ("3090", "4090", "a100", "h100", "h200")
