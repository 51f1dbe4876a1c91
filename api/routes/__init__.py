"""Routes under /v1, one module per audience; endpoints are short, what they show is read in api/queries.py."""
