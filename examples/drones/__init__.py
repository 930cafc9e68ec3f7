"""A sample to copy: drones at sites, restaurants in the cloud, and an application on either side of the link.

At a site (`edge.py`) drones report where they are, and a queue holds the deliveries of that site only. In the cloud (`cloud.py`)
restaurants register deliveries, and a table shows the cell that each drone is in. `python -m examples.drones` flies them.
"""
