"""The Kafka Connect plugins that the connectors need, pinned by `connectors/plugins.json`.

To move to other releases, change `_PLUGINS` and run `python -m auditgap.adapters.connect_plugins`, which resolves anew
and writes the lock.
"""

import json
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from auditgap import resources
from auditgap.adapters import jars
from auditgap.errors import UsageError

_PLUGINS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "avro": {
        "roots": ("io.apicurio:apicurio-registry-utils-converter:2.6.13.Final",),
        # Connect has these itself; a second copy in the plugin is another class of the same name.
        "without": (
            *("org.apache.kafka:connect-api", "org.apache.kafka:connect-json", "org.apache.kafka:kafka-clients"),
            *("org.slf4j:slf4j-api", "com.github.luben:zstd-jni", "org.lz4:lz4-java", "org.xerial.snappy:snappy-java"),
        ),
    },
    # The archive has what the connector needs; what its project file names cannot all be had.
    "jdbc": {"alone": ("io.debezium:debezium-connector-jdbc:3.6.0.Final:tar.gz:plugin",)},
    "iceberg": {
        "roots": (
            "org.apache.iceberg:iceberg-kafka-connect:1.12.0",
            "org.apache.iceberg:iceberg-parquet:1.12.0",
            "org.apache.iceberg:iceberg-aws:1.12.0",
            "org.apache.iceberg:iceberg-aws-bundle:1.12.0",
            "org.postgresql:postgresql:42.7.11",
            "commons-logging:commons-logging:1.3.0",
        ),
        # Parquet asks for Hadoop's classes even where nothing is on Hadoop.
        "alone": (
            "org.apache.hadoop:hadoop-client-api:3.4.3",
            "org.apache.hadoop:hadoop-client-runtime:3.4.3",
        ),
        "without": ("org.slf4j:slf4j-api",),
    },
}

_LOCK: Final = ("connectors", "plugins.json")

_SERVICES: Final = {
    "avro": ("org.apache.kafka.connect.storage.Converter", "io.apicurio.registry.utils.converter.AvroConverter")
}
"""Plugins that do not say in their jars what they hold: without it Connect finds them by reading all of every jar."""


def install(directory: Path, on_message: Callable[[str], None]) -> None:
    """Put the plugins below a directory that is Connect's `plugin.path`, each in a folder of its own.

    A plugin that is there is made anew. Raises BrokerError where a file cannot be had or is not the locked one, and
    UsageError where the directory cannot be written.
    """
    lock = json.loads(resources.path(*_LOCK).read_text())
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, listed in lock.items():
            files = jars.fetched(jars.read(listed), "connect", f"the Connect plugin {name}", on_message)
            with tempfile.TemporaryDirectory(prefix=".install-", dir=directory) as temporary:
                whole = Path(temporary) / name
                whole.mkdir()
                for file in files:
                    if file.suffix == ".gz":
                        with tarfile.open(file) as packed:
                            packed.extractall(whole, filter="data")
                    else:
                        shutil.copyfile(file, whole / file.name)
                if name in _SERVICES:
                    kind, implementation = _SERVICES[name]
                    with zipfile.ZipFile(whole / "services.jar", "w") as services:
                        services.writestr(f"META-INF/services/{kind}", f"{implementation}\n")
                shutil.rmtree(directory / name, ignore_errors=True)
                whole.rename(directory / name)
    except OSError as error:
        raise UsageError(f"{error.filename or directory} cannot be written: {error.strerror}") from None
    on_message(f"{', '.join(lock)}: in {directory}")


def _write_lock() -> None:
    """Resolve `_PLUGINS` with jgo and write the lock. For developers, by `python -m`."""
    written: list[str] = []
    for name, asked in _PLUGINS.items():
        written.append(f'  "{name}": [\n    {jars.rows(jars.resolved(**asked))}\n  ]')
    resources.path("connectors").joinpath("plugins.json").write_text("{\n" + ",\n".join(written) + "\n}\n")


if __name__ == "__main__":
    _write_lock()
