"""What the command line may ask for; importing this imports nothing else."""

from typing import Final

TABLE_NAMES: Final = (
    "table1", "table2", "table3", "table4", "table5", "table6", "table7", "tableC", "fig5",
)  # fmt: skip
TABLE_SIZES: Final = ("tiny", "paper")
