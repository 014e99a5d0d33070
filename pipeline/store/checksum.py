"""crc32c by the fastest library at hand.

`awscrt` (extra `fast`) folds 512-bit words where the processor can: twice the speed of the `crc32c`
package, which is the fallback. Both release the GIL and give the same number.
"""

try:
    from awscrt.checksums import crc32c
except ImportError:
    from crc32c import crc32c

__all__ = ["crc32c"]
