"""Where everything of one demo stands: its folder, its ports, its names. Decides nothing, starts nothing."""

from dataclasses import dataclass, field
from pathlib import Path

from kycache.model.connector import ConnectorSettings
from kycache.model.scalars.times import TimePrecision

from .ports import HOST
from .postgres import DATABASE, SUPERUSER, Postgres

TOPIC = "kyc.changes"
CONNECTOR = "kycache"


@dataclass(frozen=True, slots=True)
class Ports:
    """The loopback ports of a stack's servers; `controller` and `connect` are used by `apache` only."""

    postgres: int
    broker: int
    controller: int
    connect: int


@dataclass(frozen=True, slots=True)
class Layout:
    """One demo's places and names."""

    directory: Path
    ports: Ports
    password: str = field(repr=False)
    partitions: int = 4
    durable: bool = False
    """Whether the folder outlives the demo, so that writes wait for the disk."""
    times: TimePrecision = TimePrecision.MICROSECONDS
    """The unit of times in its topic's log."""

    @property
    def logs(self) -> Path:
        """The folder of the children's logs."""
        return self.directory / "logs"

    @property
    def bootstrap(self) -> str:
        """The broker's address."""
        return f"{HOST}:{self.ports.broker}"

    @property
    def connect_url(self) -> str:
        """Kafka Connect's REST interface, where the stack has one."""
        return f"http://{HOST}:{self.ports.connect}"

    @property
    def postgres(self) -> Postgres:
        """The database."""
        return Postgres(self.directory / "postgres", self.ports.postgres, self.password)

    @property
    def connector(self) -> ConnectorSettings:
        """What Debezium is told."""
        return ConnectorSettings(
            host=HOST,
            port=self.ports.postgres,
            user=SUPERUSER,
            password=self.password,
            dbname=DATABASE,
            name=CONNECTOR,
            topic=TOPIC,
            partitions=self.partitions,
            times=self.times,
        )

    def write_log4j(self) -> Path:
        """Java logs to the child's own output, which is its log file; returns the configuration."""
        path = self.directory / "log4j2.properties"
        path.write_text(_LOG4J, encoding="utf-8")
        return path


_LOG4J = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %-5p %c{1} - %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.debezium.name = io.debezium
logger.debezium.level = info
logger.threads.name = io.debezium.util.Threads
logger.threads.level = warn
logger.jdbc.name = io.debezium.jdbc
logger.jdbc.level = warn
logger.kafkaserver.name = kafka.server.KafkaRaftServer
logger.kafkaserver.level = info
"""
