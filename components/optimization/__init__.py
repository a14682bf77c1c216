"""How weights are changed: optimizers and schedules of the learning rate beyond PyTorch's own."""

from components.optimization.compressed_state import keep_state_plain, state_bytes
from components.optimization.fused import prefer_fused
from components.optimization.muon_adamw import MuonAdamW
from components.optimization.schedule_sequence import ScheduleSequence

__all__ = ["MuonAdamW", "ScheduleSequence", "keep_state_plain", "prefer_fused", "state_bytes"]
