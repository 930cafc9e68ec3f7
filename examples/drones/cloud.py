"""The application of the cloud: `CLOUD_APP=examples.drones.cloud:app`."""

from common.app import App
from examples.drones import overview
from examples.drones.drone import CellEntered
from examples.drones.restaurant import Restaurants

app = App(
    event_types=[CellEntered],
    entities=[Restaurants],
    projections=[overview.overview],
    routes=overview.routes,
)
