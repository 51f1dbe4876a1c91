"""`python -m benchmarks NAME …`: hand the rest of the command line to benchmarks/NAME.py."""

import importlib
import sys

if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m benchmarks NAME …, e.g. python -m benchmarks gavel --help")
    sys.exit(importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:]))
