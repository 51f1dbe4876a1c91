"""Ready: does the platform answer through its Service, and is it ready?"""

import sys
import urllib.request

for path in ("/healthz", "/readyz", "/v1/listings"):
    with urllib.request.urlopen(sys.argv[1] + path, timeout=10) as answer:  # noqa: S310 - the release's own Service
        print(path, answer.status)
