"""moa-sim: a simulated vLLM server.

Stands where a panel of models would stand: for tests that need exact counts and faults on demand, for benches that need
an upstream cheaper than the router under test, and for clusters without accelerators. It speaks what vLLM speaks (chunk
bytes, error wording, metric names, prefix-cache arithmetic) and keeps books about every call it was asked.
"""

from moa_simulator.books import CallRecord, Totals
from moa_simulator.config import ConfigError, ModelConfig, SimulatorConfig
from moa_simulator.rules import Action, Match, Rule
from moa_simulator.server import Simulator

__all__ = [
    "Action",
    "CallRecord",
    "ConfigError",
    "Match",
    "ModelConfig",
    "Rule",
    "Simulator",
    "SimulatorConfig",
    "Totals",
]
