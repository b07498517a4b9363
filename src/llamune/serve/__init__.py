"""The HTTP server: keys, metering, OpenAI's and Ollama's APIs over one base and many adapters."""

from llamune.serve.app import create_app
from llamune.serve.database import DatabaseError, open_database
from llamune.serve.keys import Key, create_key, find_key, list_keys, revoke_key
from llamune.serve.usage import GROUPS, Price, Usage, read_prices, record_request, usage_by

__all__ = [
    "GROUPS",
    "DatabaseError",
    "Key",
    "Price",
    "Usage",
    "create_app",
    "create_key",
    "find_key",
    "list_keys",
    "open_database",
    "read_prices",
    "record_request",
    "revoke_key",
    "usage_by",
]
