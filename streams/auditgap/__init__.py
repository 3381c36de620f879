"""auditgap: notices on Kafka when a compliance audit feed goes dark, and keeps the window nobody recorded."""

from importlib.metadata import version

__version__ = version("auditgap")
