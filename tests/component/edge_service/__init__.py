"""The edge service, part by part."""
