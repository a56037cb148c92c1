"""What a shrunk model is counted, or measured, to cost; see `Price`."""

from efficient.prune.prices.macs import macs
from efficient.prune.prices.measured_ms import measured_ms
from efficient.prune.prices.predicted_ms import predicted_ms
from efficient.prune.prices.stored_bytes import stored_bytes

__all__ = ["macs", "measured_ms", "predicted_ms", "stored_bytes"]
