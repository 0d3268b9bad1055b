"""Apache Kafka, Kafka Connect and Debezium from Maven Central, kept in the user's cache.

A version's folder appears whole or not at all: it is filled beside its place and renamed into it.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kycache.model.errors import Unreachable

from .children import log_tail

KAFKA = "4.1.2"
DEBEZIUM = "3.6.3.Final"
LOG4J = "2.25.3"
"""The version that Kafka's own class path carries; it lacks the binding."""

DOWNLOAD_TIMEOUT_S = 600.0
"""80 MB: minutes on a slow line; longer is no line."""

_COPY = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies"
_SERVER = {
    **{f"org.apache.kafka:{name}": KAFKA for name in ("kafka_2.13", "connect-runtime")},
    **{f"org.apache.kafka:{name}": KAFKA for name in ("connect-json", "connect-transforms")},
    "org.apache.logging.log4j:log4j-slf4j-impl": LOG4J,
}
_PLUGIN = {"io.debezium:debezium-connector-postgres": DEBEZIUM}


@dataclass(frozen=True, slots=True)
class Jars:
    """Where the jars are: `server` a class path folder, `plugins` a folder of plugin folders."""

    server: Path
    plugins: Path


def cached() -> Jars | None:
    """The jars, when the cache has them."""
    place = _place()
    return Jars(place / "server", place / "plugins") if place.is_dir() else None


def fetch() -> Jars:
    """The jars, from the cache or, the first time, from Maven Central.

    Raises:
        Unreachable: there is no Maven, or the download fails.
    """
    if found := cached():
        return found
    place = _place()
    place.parent.mkdir(parents=True, exist_ok=True)
    filling = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        _copy(_SERVER, filling / "server", filling)
        _copy(_PLUGIN, filling / "plugins" / "debezium-postgres", filling)
        try:
            filling.rename(place)
        except OSError:
            if not place.is_dir():  # else another process was first, with the same files
                raise
    finally:
        shutil.rmtree(filling, ignore_errors=True)
    return Jars(place / "server", place / "plugins")


def _place() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "kycache" / "jars" / f"kafka-{KAFKA}-debezium-{DEBEZIUM}"


def _copy(coordinates: Mapping[str, str], into: Path, work: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise Unreachable(
            "the apache stack takes Kafka and Debezium from Maven Central, and there is no Maven (`mvn`) here",
            "install Maven, or use --stack embedded",
        )
    pom, log = work / "pom.xml", work / "mvn.log"
    pom.write_text(_pom(coordinates), encoding="utf-8")
    command = [maven, "-B", "-q", "-Dstyle.color=never", "-f", str(pom), _COPY]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={into}"]
    with log.open("wb") as output:
        try:
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=DOWNLOAD_TIMEOUT_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    if code != 0 or not any(into.glob("*.jar")):
        errors = [line.partition("[ERROR] ")[2] for line in log_tail(log, 40)]
        said = next(filter(None, errors), f"exit {code}")
        raise Unreachable(
            f"Maven cannot fetch {', '.join(coordinates)}: {said}",
            "see that Maven Central can be reached (proxy, ~/.m2/settings.xml), or use --stack embedded",
        )
    pom.unlink()
    log.unlink()


def _pom(coordinates: Mapping[str, str]) -> str:
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
        f"<version>{version}</version></dependency>"
        for (group, _, artifact), version in ((c.partition(":"), v) for c, v in coordinates.items())
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>kycache</groupId><artifactId>demo-jars</artifactId><version>1</version>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )
