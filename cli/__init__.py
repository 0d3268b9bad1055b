"""The command line: settings, commands, and the processes composed from the other folders."""
