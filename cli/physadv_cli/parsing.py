"""Values as people write them: 8/255, 0.03, linf:8/255."""

from __future__ import annotations

from physadv.threat.parsing import parse_eps as parse_eps
from physadv.threat.parsing import parse_norm as parse_norm
from physadv.threat.parsing import parse_threat as parse_threat
