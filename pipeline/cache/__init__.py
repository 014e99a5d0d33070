"""The cache: a plan, layers of sharded Zarr v3 arrays, manifests; written once, read by offset."""

from .create import create_cache
from .index import finalize
from .manifest import Manifest, committed_shards, missing_shards, read_committed
from .plan import Images, Plan, PlanImage
from .reader import CacheReader
from .verify import ShardReport, VerifyReport, repair, uncommit, verify, verify_shard
from .writer import write_shard

__all__ = [
    "CacheReader",
    "Images",
    "Manifest",
    "Plan",
    "PlanImage",
    "ShardReport",
    "VerifyReport",
    "committed_shards",
    "create_cache",
    "finalize",
    "missing_shards",
    "read_committed",
    "repair",
    "uncommit",
    "verify",
    "verify_shard",
    "write_shard",
]
