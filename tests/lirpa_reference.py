r"""Bounds by auto_LiRPA (Xu et al. 2020), the reference of the field, and the record of them that
the tests read.

    PYTHONPATH=<folder with auto_LiRPA>:tests:tests/defenses:. python tests/lirpa_reference.py

writes tests/defenses/auto_lirpa.json anew. The release on the package index, 0.3, asks for a torch
of its day and older names in numpy; `load` lends it these names, so it is installed without its
requirements: pip install --no-deps --target <folder> auto_LiRPA appdirs pyyaml sortedcontainers
tqdm.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

RECORD = Path(__file__).resolve().parent / "certification" / "auto_lirpa.json"
NAMES = {"ibp": "IBP", "crown-ibp": "CROWN-IBP", "crown": "CROWN"}
NORMS = {"linf": float("inf"), "l2": 2.0}


def load() -> Any:
    """The package, whichever release. Raises ImportError where it is not installed."""
    import torch.onnx.symbolic_helper
    import torch.onnx.utils

    try:
        import auto_LiRPA  # type: ignore[import-not-found]
    except ModuleNotFoundError as error:
        if error.name == "auto_LiRPA":
            raise
    else:
        return auto_LiRPA
    from torch._C import _onnx
    from torch.onnx._internal.torchscript_exporter import _globals, utils

    old = types.ModuleType("numpy.lib.arraysetops")
    old.isin = np.isin  # type: ignore[attr-defined]
    sys.modules.setdefault(old.__name__, old)
    lent: tuple[tuple[Any, str, Any], ...] = (
        (torch.onnx.utils, "_optimize_graph", utils._optimize_graph),
        (torch.onnx, "OperatorExportTypes", _onnx.OperatorExportTypes),
        (
            torch.onnx.symbolic_helper,
            "_set_opset_version",
            lambda version: setattr(_globals.GLOBALS, "export_onnx_opset_version", version),
        ),
        (torch._C.Node, "__getitem__", lambda node, key: getattr(node, node.kindOf(key))(key)),
    )
    for where, name, value in lent:
        if not hasattr(where, name):
            setattr(where, name, value)
    import auto_LiRPA

    own = auto_LiRPA.BoundedModule._named_members

    def members(self: Any, get: Any, prefix: str = "", recurse: bool = True, **_: Any) -> Any:
        """Theirs, which knows nothing of torch's later ``remove_duplicate``."""
        return own(self, get, prefix, recurse)

    auto_LiRPA.BoundedModule._named_members = members
    return auto_LiRPA


def margins(
    net: nn.Module, x: Tensor, forms: Tensor, *, eps: float, norm: str, method: str
) -> Tensor:
    """Its lower bounds (b, k) of the forms (b, k, classes) over the ball, which is not cut to [0,
    1]."""
    lirpa = load()
    bounded = lirpa.BoundedModule(net, torch.zeros_like(x))
    point = lirpa.BoundedTensor(x, lirpa.PerturbationLpNorm(norm=NORMS[norm], eps=eps))
    found: Tensor = bounded.compute_bounds(
        x=(point,), C=forms, method=NAMES[method], bound_upper=False
    )[0]
    return found.detach()


def main() -> None:
    """Write the record."""
    from test_bounds import LIRPA_CASES, lirpa_case  # type: ignore[import-not-found]

    rows = []
    for case in LIRPA_CASES:
        net, x, forms = lirpa_case(case[0])
        found = margins(net, x, forms, eps=0.05, norm=case[1], method=case[2])
        rows.append({"net": case[0], "norm": case[1], "method": case[2], "margins": found.tolist()})
    RECORD.write_text(
        "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
