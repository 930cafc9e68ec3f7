"""What every service needs around its work: settings, logs, HTTP, metrics, supervision."""
