"""Key: this node's own key out of all nodes' keys, where the agent looks for it. Only this container sees the others."""

import json
import os
import sys
from pathlib import Path

node, target = os.environ["YISUAN_NODE"], Path(os.environ["YISUAN_DATA_DIR"]) / "keys.json"
entry = Path("/etc/yisuan/keys") / node
if not entry.is_file():
    sys.exit(f"the Secret of agents.keysSecret has no entry {node}")
target.unlink(missing_ok=True)
descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
with os.fdopen(descriptor, "w") as file:
    json.dump({"keys": {"agent": entry.read_text().strip()}}, file)
