"""Reading the services' log lines: parse, put together what they say of each link, write it down for people."""
