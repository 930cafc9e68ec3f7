"""What both protocols' links stand on: dialling again, live streams, admission, status of a call."""
