"""The policy that the protos state, read once from the descriptors into plain values."""

from mesh.contract.model import Contract, EventPolicy, FieldPolicy, HttpRule, MethodPolicy, ServicePolicy
from mesh.contract.reader import ContractError, load

__all__ = [
    "Contract",
    "ContractError",
    "EventPolicy",
    "FieldPolicy",
    "HttpRule",
    "MethodPolicy",
    "ServicePolicy",
    "load",
]
