"""`python -m tests.chart`: the goldens are written anew. Look at the difference before you keep it."""

from __future__ import annotations

from tests.chart.chart import HERE, SETS, golden

for name in SETS:
    (HERE / "golden" / f"{name}.yaml").write_text(golden(name), encoding="utf-8")
