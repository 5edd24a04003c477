"""The admission webhook that adds the sniffer to pods: `python -m sniffer.injector`.

    options   every option of the injector, declared once
    values    the types of their values: quantities, names, Secrets, variables
    patch     what is added to a pod, or the reason why nothing is: pure functions
    server    AdmissionReview over TLS

Public names are imported when they are first used, so that importing one does not load the web server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sniffer.injector.options import InjectorOptions
    from sniffer.injector.patch import Decision, Reason, build_env, build_patch, build_sniffer_container

__all__ = ["Decision", "InjectorOptions", "Reason", "build_env", "build_patch", "build_sniffer_container"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "sniffer.injector.options" if name == "InjectorOptions" else "sniffer.injector.patch"
    return getattr(import_module(module), name)
