"""The registry of models: register a bundle, decide whether it may be champion, promote it, roll it back.

- `gate`: the decision, pure.
- `registration`, `promotion`: what changes the registry, under the store's lock.
- `champion`: the one version that serving may use.
- `audit`, `comparison`, `facts`, `files`, `overview`: what these stand on, and what is shown of it.
"""

from mammo_ml.registry.audit import CHAMPION
from mammo_ml.registry.gate import (
    Attempts,
    CandidateFacts,
    Comparison,
    Condition,
    Decision,
    GateParameters,
    RegistryFacts,
    decide,
    format_decision,
)
from mammo_ml.registry.promotion import Rollback, bundle_of, champion, load_model, promote, rollback, version_of
from mammo_ml.registry.registration import CHALLENGER, NAMES, register

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "NAMES",
    "Attempts",
    "CandidateFacts",
    "Comparison",
    "Condition",
    "Decision",
    "GateParameters",
    "RegistryFacts",
    "Rollback",
    "bundle_of",
    "champion",
    "decide",
    "format_decision",
    "load_model",
    "promote",
    "register",
    "rollback",
    "version_of",
]
