"""From a program at the gateway to the cloud's journal: intake, push, backlog, latency."""
