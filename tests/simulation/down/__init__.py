"""The way down: subscriptions, inboxes and filters under faults."""
