"""The application of a site: `EDGE_APP=examples.drones.edge:app`."""

from common.app import App, Transformations
from examples.drones import nearest
from examples.drones.drone import Drones, coarse_only
from examples.drones.queue import Deliveries, site_deliveries
from examples.drones.restaurant import DeliveryRegistered

app = App(
    event_types=[DeliveryRegistered],
    entities=[Drones],
    states=[Deliveries],
    follows=[site_deliveries],
    transformations=Transformations(on_push=coarse_only),
    routes=nearest.routes,
)
